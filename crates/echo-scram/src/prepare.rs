//! Names and passwords as they are compared: SASLprep (RFC 4013), and the escapes of names.

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

use crate::Error;

/// The longest user name, in bytes.
const MAX_NAME: usize = 255;

/// The longest password, in bytes: whoever needs more has a key, not a password.
const MAX_PASSWORD: usize = 1024;

/// A password, prepared.
pub struct Password(Zeroizing<String>);

impl Password {
    /// Prepares a password as RFC 5802 asks for (SASLprep).
    ///
    /// # Errors
    /// [`Error::BadPassword`].
    pub fn new(text: &str) -> Result<Self, Error> {
        let prepared = match stringprep::saslprep(text) {
            Ok(Cow::Borrowed(text)) => Zeroizing::new(text.to_owned()),
            Ok(Cow::Owned(text)) => Zeroizing::new(text),
            Err(_) => return Err(Error::BadPassword),
        };
        match prepared.len() {
            1..=MAX_PASSWORD => Ok(Self(prepared)),
            _ => Err(Error::BadPassword),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Prepares a user name: SASLprep, and no blanks, so that it stands in a line of any log or file.
///
/// # Errors
/// [`Error::BadName`], [`Error::ForbiddenName`].
pub fn prepare_name(name: &str) -> Result<String, Error> {
    let is_blank = |c: char| c.is_whitespace() || c.is_control();
    // First what anybody sees: SASLprep refuses some of it as well.
    if name.contains(is_blank) {
        return Err(Error::BadName);
    }
    let prepared = stringprep::saslprep(name).map_err(|_| Error::ForbiddenName)?;
    if !(1..=MAX_NAME).contains(&prepared.len()) || prepared.contains(is_blank) {
        return Err(Error::BadName);
    }
    Ok(prepared.into_owned())
}

/// A name as it stands in a message.
pub(crate) fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// The name that stands in a message so; `None` where an equals sign is no escape.
pub(crate) fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (c, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        name.push(c);
        name.push_str(rest);
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passwords_are_prepared() {
        // RFC 4013 section 3.
        for (given, prepared) in
            [("I\u{ad}X", "IX"), ("user", "user"), ("\u{aa}", "a"), ("\u{2168}", "IX")]
        {
            assert_eq!(Password::new(given).unwrap().as_bytes(), prepared.as_bytes());
            assert_eq!(prepare_name(given).unwrap(), prepared);
        }
        for bad in ["", "\u{7}", "\u{627}1", "\u{ad}", &"x".repeat(1025)] {
            assert_eq!(Password::new(bad).unwrap_err(), Error::BadPassword, "{bad:?}");
        }
        for bad in ["", "a b", "a\u{a0}b", "\n", &"x".repeat(256)] {
            assert_eq!(prepare_name(bad), Err(Error::BadName), "{bad:?}");
        }
        for bad in ["\u{1f980}", "\u{627}1", "a\u{e000}"] {
            assert_eq!(prepare_name(bad), Err(Error::ForbiddenName), "{bad:?}");
        }
        assert_eq!(prepare_name("zoe\u{308}").as_deref(), Ok("zo\u{eb}"));
        assert_eq!(format!("{:?}", Password::new("canary").unwrap()), "Password(..)");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("a,b=c"), "a=2Cb=3Dc");
        assert_eq!(unescape("a=2Cb=3Dc").as_deref(), Some("a,b=c"));
        assert_eq!(unescape("=3D2C").as_deref(), Some("=2C"));
        for bad in ["=", "a=2c", "a=2", "a=41", "==3D"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in any::<String>()) {
            prop_assert_eq!(unescape(&escape(&name)), Some(name));
        }
    }
}
