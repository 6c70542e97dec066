//! Names of files.

use std::fmt;

/// The name of a stored file: components joined by `/`, bytes of any encoding.
///
/// It has 1 to 1,024 bytes and at most 32 components, each of 1 to 255 bytes; none is `.` or `..`, and no byte is a control
/// character of ASCII. So it is relative, leads to no parent, and stays on one line. Terminals know other
/// controls: show it escaped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName<'a>(&'a [u8]);

impl<'a> FileName<'a> {
    /// The longest name.
    pub const MAX_LEN: usize = 1024;
    /// The longest component: NAME_MAX of Linux (path_resolution(7)).
    pub const MAX_COMPONENT_LEN: usize = 255;
    /// Components at most. Who walks to a file may hold a folder open for each.
    pub const MAX_COMPONENTS: usize = 32;

    /// Takes `name` if it is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(name: &'a [u8]) -> Result<Self, BadName> {
        match name.len() {
            0 => return Err(BadName::Empty),
            len if len > Self::MAX_LEN => return Err(BadName::TooLong),
            _ => {}
        }
        if name.iter().any(u8::is_ascii_control) {
            return Err(BadName::Control);
        }
        for (before, component) in name.split(|byte| *byte == b'/').enumerate() {
            match component {
                _ if before >= Self::MAX_COMPONENTS => return Err(BadName::TooDeep),
                b"" | b"." | b".." => return Err(BadName::Component),
                component if component.len() > Self::MAX_COMPONENT_LEN => {
                    return Err(BadName::TooLong);
                }
                _ => {}
            }
        }
        Ok(Self(name))
    }

    /// All its bytes.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its components, at least one: folders, and the file's own name.
    pub fn components(self) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == b'/')
    }
}

impl fmt::Debug for FileName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// For people: what is no UTF-8 is replaced.
impl fmt::Display for FileName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0))
    }
}

/// Why bytes are no [`FileName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadName {
    /// There are none.
    #[error("a name has at least one byte")]
    Empty,
    /// It, or a component of it, is too long.
    #[error("a name has at most 1024 bytes, each of its components 255")]
    TooLong,
    /// It has too many components.
    #[error("a name has at most 32 components")]
    TooDeep,
    /// It begins or ends with `/`, or a component is empty, `.` or `..`.
    #[error("a name is relative, and none of its components is empty, \".\" or \"..\"")]
    Component,
    /// It holds a control character.
    #[error("a name holds no control characters")]
    Control,
}
