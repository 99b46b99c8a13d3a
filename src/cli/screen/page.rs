//! What the narrator says to a screen: lines, each with its kind.

/// What a line is, for screens that set some off from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineKind {
    /// A phase begins.
    Begin,
    /// A phase ended well.
    Done,
    /// A phase failed.
    Failed,
    /// A line that a program printed.
    Output,
    /// A warning; the text is without the word.
    Warning,
    /// The error that ends it; the text is without the word.
    Error,
    /// Any other fact.
    Fact,
}

/// Where lines go. A [`LineKind::Warning`] or [`LineKind::Error`] may have several lines, every other kind has one.
pub(crate) trait Page {
    /// Takes a line; `peer` is the name of the peer that it is about.
    fn line(&mut self, kind: LineKind, peer: Option<&str>, text: &str);

    /// How wide a table may be; none where a line may be as long as it wants.
    fn columns(&self) -> Option<usize> {
        None
    }
}

/// How a narrator shows text that it relays, and which signs it uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelayStyle {
    /// Programs' output as it is.
    pub(crate) raw: bool,
    /// The locale is UTF-8.
    pub(crate) utf8: bool,
}
