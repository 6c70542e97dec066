//! The four messages (RFC 5802 section 7), read and nothing else.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Error;
use crate::prepare::unescape;

/// The longest message that is read: 4 KiB is what a frame may carry.
const MAX_MESSAGE: usize = 4096;

/// One of the messages of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The client's first.
    ClientFirst,
    /// The server's challenge.
    ServerFirst,
    /// The client's proof.
    ClientFinal,
    /// The server's signature.
    ServerFinal,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientFirst => "client-first-message",
            Self::ServerFirst => "server-first-message",
            Self::ClientFinal => "client-final-message",
            Self::ServerFinal => "server-final-message",
        })
    }
}

/// What a client says of channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag<'a> {
    /// `n`: it knows none.
    None,
    /// `y`: it knows some, and thinks that the server does not.
    NotOffered,
    /// `p=`: it uses this one.
    Named(&'a str),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst<'a> {
    pub(crate) flag: Flag<'a>,
    /// Who the client wants to act as, if it says so.
    pub(crate) identity: Option<String>,
    pub(crate) name: String,
    pub(crate) nonce: &'a str,
    /// The header with its commas, which channel binding covers, and what stands behind it.
    pub(crate) header: &'a str,
    pub(crate) bare: &'a str,
}

impl<'a> ClientFirst<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Error> {
        let malformed = Error::Malformed(Part::ClientFirst);
        Self::read(text(message).unwrap_or_default()).ok_or(malformed)
    }

    fn read(message: &'a str) -> Option<Self> {
        let (flag, rest) = message.split_once(',')?;
        let (identity, bare) = rest.split_once(',')?;
        let flag = match flag {
            "n" => Flag::None,
            "y" => Flag::NotOffered,
            named => Flag::Named(named.strip_prefix("p=").filter(|name| is_binding_name(name))?),
        };
        let identity = match identity {
            "" => None,
            named => Some(unescape(named.strip_prefix("a=")?).filter(|name| !name.is_empty())?),
        };
        // An extension that must be understood (m=) comes first, and none is: it is no n=.
        let mut fields = bare.split(',');
        let name = unescape(fields.next()?.strip_prefix("n=")?).filter(|name| !name.is_empty())?;
        let nonce = nonce(fields.next()?)?;
        fields.all(is_extension).then_some(())?;
        let header = &message[..message.len() - bare.len()];
        Some(Self { flag, identity, name, nonce, header, bare })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerFirst<'a> {
    pub(crate) nonce: &'a str,
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: u64,
}

impl<'a> ServerFirst<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Error> {
        let malformed = Error::Malformed(Part::ServerFirst);
        Self::read(text(message).unwrap_or_default()).ok_or(malformed)
    }

    fn read(message: &'a str) -> Option<Self> {
        let mut fields = message.split(',');
        let nonce = nonce(fields.next()?)?;
        let salt = decode(fields.next()?.strip_prefix("s=")?).filter(|salt| !salt.is_empty())?;
        let digits = fields.next()?.strip_prefix("i=")?;
        let number = digits.bytes().all(|digit| digit.is_ascii_digit()) && !digits.starts_with('0');
        let iterations = digits.parse().ok().filter(|_| number)?;
        fields.all(is_extension).then_some(Self { nonce, salt, iterations })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFinal<'a> {
    /// Header and channel binding.
    pub(crate) binding: Vec<u8>,
    pub(crate) nonce: &'a str,
    /// Whatever its length.
    pub(crate) proof: Vec<u8>,
    pub(crate) without_proof: &'a str,
}

impl<'a> ClientFinal<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Error> {
        let malformed = Error::Malformed(Part::ClientFinal);
        Self::read(text(message).unwrap_or_default()).ok_or(malformed)
    }

    fn read(message: &'a str) -> Option<Self> {
        let (without_proof, proof) = message.rsplit_once(',')?;
        // What is no base64 is a wrong proof, not another kind of mistake.
        let proof = decode(proof.strip_prefix("p=")?).unwrap_or_default();
        let mut fields = without_proof.split(',');
        let binding = decode(fields.next()?.strip_prefix("c=")?)?;
        let nonce = nonce(fields.next()?)?;
        fields.all(is_extension).then_some(Self { binding, nonce, proof, without_proof })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerFinal<'a> {
    Signature(Vec<u8>),
    Refused(&'a str),
}

impl<'a> ServerFinal<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Error> {
        let malformed = Error::Malformed(Part::ServerFinal);
        Self::read(text(message).unwrap_or_default()).ok_or(malformed)
    }

    fn read(message: &'a str) -> Option<Self> {
        let mut fields = message.split(',');
        let first = fields.next()?;
        fields.all(is_extension).then_some(())?;
        match (first.strip_prefix("v="), first.strip_prefix("e=")) {
            (Some(signature), _) => decode(signature).map(Self::Signature),
            (_, Some(words)) if !words.is_empty() => Some(Self::Refused(words)),
            _ => None,
        }
    }
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn text(message: &[u8]) -> Option<&str> {
    // No zero byte anywhere: RFC 5802's "value-char".
    let fits = message.len() <= MAX_MESSAGE && !message.contains(&0);
    std::str::from_utf8(message).ok().filter(|_| fits)
}

/// `r=` and printable ASCII.
fn nonce(field: &str) -> Option<&str> {
    let nonce = field.strip_prefix("r=")?;
    let printable = nonce.bytes().all(|byte| byte.is_ascii_graphic());
    (printable && !nonce.is_empty()).then_some(nonce)
}

fn is_binding_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    !name.is_empty() && name.bytes().all(known)
}

/// A letter, an equals sign and a value; not `m=`, which asks to be understood.
fn is_extension(field: &str) -> bool {
    let bytes = field.as_bytes();
    bytes.len() > 2 && bytes[0].is_ascii_alphabetic() && bytes[0] != b'm' && bytes[1] == b'='
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_messages_are_read() {
        let first = ClientFirst::parse(b"y,a=x=2Cy,n=u=3Dser,r=abc,x=later").unwrap();
        assert_eq!((first.flag, first.identity.as_deref()), (Flag::NotOffered, Some("x,y")));
        assert_eq!((&first.name[..], first.nonce), ("u=ser", "abc"));
        assert_eq!((first.header, first.bare), ("y,a=x=2Cy,", "n=u=3Dser,r=abc,x=later"));
        for bad in [
            &b""[..],
            b"n",
            b"n,",
            b"n,,",
            b"n,,n=user",
            b"n,,n=user,r=",
            b"n,,n=,r=abc",
            b"n,,r=abc,n=user",
            b"n,,m=x,n=user,r=abc",
            b"n,,n=user,r=abc,m=x",
            b"n,,n=us=er,r=abc",
            b"n,,n=user,r=a\xc3\xa9",
            b"n,,n=user,r=a b",
            b"n,,n=user\0,r=abc",
            b"n,,n=\xff,r=abc",
            b"n,a=,n=user,r=abc",
            b"n,user,n=user,r=abc",
            b"p,,n=user,r=abc",
            b"p=,,n=user,r=abc",
            b"p=tls exporter,,n=user,r=abc",
            b"N,,n=user,r=abc",
            b"n,,n=user,r=abc,",
            b"n,,n=user,r=abc,x",
        ] {
            let parsed = ClientFirst::parse(bad);
            assert_eq!(parsed, Err(Error::Malformed(Part::ClientFirst)), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn challenges_are_read() {
        let first = ServerFirst::parse(b"r=abcdef,s=AAEC,i=4096,x=later").unwrap();
        let expected = ServerFirst { nonce: "abcdef", salt: vec![0, 1, 2], iterations: 4096 };
        assert_eq!(first, expected);
        for bad in [
            &b""[..],
            b"r=abc,s=AAEC",
            b"r=abc,s=,i=4096",
            b"r=abc,s=AAE,i=4096",
            b"r=abc,s=AAEC,i=",
            b"r=abc,s=AAEC,i=-1",
            b"r=abc,s=AAEC,i=+1",
            b"r=abc,s=AAEC,i=04096",
            b"r=abc,s=AAEC,i=99999999999999999999",
            b"r=abc,s=AAEC,i=4096,m=x",
            b"m=x,r=abc,s=AAEC,i=4096",
            b"s=AAEC,r=abc,i=4096",
        ] {
            let parsed = ServerFirst::parse(bad);
            assert_eq!(parsed, Err(Error::Malformed(Part::ServerFirst)), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn final_messages_are_read() {
        let last = ClientFinal::parse(b"c=biws,r=abc,x=later,p=AAEC").unwrap();
        assert_eq!((&last.binding[..], last.nonce), (&b"n,,"[..], "abc"));
        assert_eq!((last.proof, last.without_proof), (vec![0, 1, 2], "c=biws,r=abc,x=later"));
        assert_eq!(ClientFinal::parse(b"c=biws,r=abc,p=!").unwrap().proof, b"");
        for bad in
            [&b""[..], b"p=AAEC", b"c=biws,p=AAEC", b"c=!,r=abc,p=AAEC", b"c=biws,r=abc,p=AAEC,x=y"]
        {
            let parsed = ClientFinal::parse(bad);
            assert_eq!(parsed, Err(Error::Malformed(Part::ClientFinal)), "{}", bad.escape_ascii());
        }
        assert_eq!(ServerFinal::parse(b"v=AAEC"), Ok(ServerFinal::Signature(vec![0, 1, 2])));
        assert_eq!(ServerFinal::parse(b"e=no,x=y"), Ok(ServerFinal::Refused("no")));
        for bad in [&b""[..], b"v", b"v=!", b"e=", b"x=y", b"v=AAEC,", b"v=AAEC,m=x"] {
            let parsed = ServerFinal::parse(bad);
            assert_eq!(parsed, Err(Error::Malformed(Part::ServerFinal)), "{}", bad.escape_ascii());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LONG").is_some() { 1_000_000 } else { 5_000 }))]

        /// Whatever comes, nothing panics, and what is read lies in what came.
        #[test]
        fn garbage_is_read_or_refused(message in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            "[npyaersivcm=,A-Z0-9+/]{0,48}".prop_map(String::into_bytes),
            "(n|y|p=tls-exporter),(a=x)?,n=[a-z=,]{0,6},r=[!-~]{0,8}".prop_map(String::into_bytes),
        ]) {
            if let Ok(first) = ClientFirst::parse(&message) {
                prop_assert_eq!([first.header, first.bare].concat().into_bytes(), message.clone());
                prop_assert!(!first.nonce.contains(','));
            }
            if let Ok(last) = ClientFinal::parse(&message) {
                prop_assert!(message.starts_with(last.without_proof.as_bytes()));
            }
            if let Ok(first) = ServerFirst::parse(&message) {
                prop_assert!(!first.salt.is_empty());
            }
            let _ = ServerFinal::parse(&message);
        }
    }
}
