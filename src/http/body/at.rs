//! Where in a body something is, and the list of what is wrong there.

use std::borrow::Cow;
use std::fmt;

use crate::http::problem::Fault;

/// Most faults that one answer lists.
pub(super) const MAX_FAULTS: usize = 100;
/// Longest unknown name that is repeated to its sender.
const MAX_ECHO_CHARS: usize = 100;

/// A place in a JSON body, as a list that ends at the root. Written as a JSON pointer (RFC 6901).
#[derive(Debug, Clone, Copy)]
pub(super) enum At<'a> {
    /// The whole body.
    Root,
    /// A member of an object.
    Key(&'a At<'a>, &'a str),
    /// An element of an array.
    Index(&'a At<'a>, usize),
    /// The same place, and on which line of the body it starts, counting from 1.
    Line(&'a At<'a>, u32),
}

impl<'a> At<'a> {
    /// The member `key` of the object here.
    #[must_use]
    pub(super) const fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    /// The element `index` of the array here.
    #[must_use]
    pub(super) const fn index(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }

    /// On which line of the body it starts, where that is known.
    fn line(&self) -> Option<u32> {
        match self {
            Self::Root => None,
            Self::Line(_, line) => Some(*line),
            Self::Key(parent, _) | Self::Index(parent, _) => parent.line(),
        }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(parent, key) => write!(f, "{parent}/{}", key.replace('~', "~0").replace('/', "~1")),
            Self::Index(parent, index) => write!(f, "{parent}/{index}"),
            Self::Line(place, _) => place.fmt(f),
        }
    }
}

/// Nothing could be read, and the [`Faults`] say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted;

/// Everything that is wrong with a body.
#[derive(Debug, Default)]
pub(super) struct Faults {
    listed: Vec<Fault>,
    unlisted: usize,
}

impl Faults {
    /// Notes a fault.
    pub(super) fn add(&mut self, at: &At<'_>, detail: impl Into<Cow<'static, str>>) -> Noted {
        if self.listed.len() < MAX_FAULTS {
            self.listed.push(Fault::in_body(at.to_string(), detail).on_line(at.line()));
        } else {
            self.unlisted += 1;
        }
        Noted
    }

    /// Notes a fault that is not in the body.
    pub(super) fn add_fault(&mut self, fault: Fault) -> Noted {
        self.listed.push(fault);
        Noted
    }

    /// Notes a fault of the member `name`, which the sender made up: a very long name is not repeated.
    pub(super) fn add_named(&mut self, object: &At<'_>, name: &str, detail: impl Into<Cow<'static, str>>) -> Noted {
        if name.chars().count() <= MAX_ECHO_CHARS {
            self.add(&object.key(name), detail)
        } else {
            let detail: Cow<'static, str> = detail.into();
            self.add(object, format!("a member whose name has {} characters: {detail}", name.chars().count()))
        }
    }

    /// Whether nothing is wrong.
    ///
    /// # Errors
    /// The faults, and one more that counts those that were not listed.
    pub(super) fn finish(mut self) -> Result<(), Vec<Fault>> {
        // What cannot be read is found before what breaks a rule; whoever mends a file of rows goes down it once.
        self.listed.sort_by_key(|fault| fault.line.unwrap_or_default());
        if self.unlisted > 0 {
            let detail = format!("{} more faults are not listed", self.unlisted);
            self.listed.push(Fault::in_body(String::new(), detail));
        }
        if self.listed.is_empty() { Ok(()) } else { Err(self.listed) }
    }
}
