//! Finds a model's name and its numbers in JSON of any length.
//!
//! It follows strings and nesting byte by byte and knows three places: a document's root object (also as an element of a
//! list at the root), an object in it called `message` or `response`, and everything else. In the first two it takes the
//! text of `model` or `modelVersion`, and the whole object `usage` or `usageMetadata`. Malformed documents are not told from
//! others; they only give nothing, or nonsense, until the next document begins.

use super::count::Tally;

/// The longest object with numbers, in bytes; longer ones are passed over.
const MAX_USAGE: usize = 4096;
/// The longest name of a field or of a model that is kept, in bytes.
const MAX_TEXT: usize = 128;

/// Where documents are read.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// The containers around, from the root; at most three.
    places: Vec<Place>,
    /// Containers below those, of which only the depth matters.
    below: u64,
    /// The string that is being read.
    string: Option<Text>,
    /// What the innermost field is called.
    key: Key,
    /// Whether the next string is the name of a field.
    expects_key: bool,
    capture: Option<Capture>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    RootList,
    Root,
    Wrapped,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Key {
    Usage,
    Model,
    Wrapper,
    #[default]
    Other,
}

#[derive(Debug)]
struct Text {
    role: Role,
    bytes: Vec<u8>,
    escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Key,
    Model,
    Other,
}

/// An object with numbers, being read.
#[derive(Debug)]
struct Capture {
    bytes: Vec<u8>,
    depth: u64,
    escaped: bool,
    in_string: bool,
}

impl Scanner {
    pub(super) fn push(&mut self, bytes: &[u8], tally: &mut Tally) {
        for byte in bytes {
            if self.capture.is_some() {
                self.captured(*byte, tally);
            } else if self.string.is_some() {
                self.in_string(*byte, tally);
            } else {
                self.between(*byte);
            }
        }
    }

    /// The document ends here, whole or not.
    pub(super) fn end(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        *self = Self {
            places,
            ..Self::default()
        };
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b'"' => {
                let role = match self.key {
                    _ if self.below > 0 || !self.in_object() => Role::Other,
                    _ if self.expects_key => Role::Key,
                    Key::Model => Role::Model,
                    _ => Role::Other,
                };
                self.string = Some(Text {
                    role,
                    bytes: Vec::new(),
                    escaped: false,
                });
            }
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(),
            b',' if self.below == 0 => self.expects_key = self.in_object(),
            b':' if self.below == 0 => self.expects_key = false,
            _ => {}
        }
    }

    fn in_object(&self) -> bool {
        matches!(self.places.last(), Some(Place::Root | Place::Wrapped))
    }

    fn open(&mut self, byte: u8) {
        let innermost = self.places.last().copied();
        let next = match (innermost, byte, self.key) {
            _ if self.below > 0 => None,
            (None, b'[', _) => Some(Place::RootList),
            (None | Some(Place::RootList), b'{', _) => Some(Place::Root),
            (Some(Place::Root | Place::Wrapped), b'{', Key::Usage) => {
                self.capture = Some(Capture {
                    bytes: vec![byte],
                    depth: 1,
                    escaped: false,
                    in_string: false,
                });
                return;
            }
            (Some(Place::Root), b'{', Key::Wrapper) => Some(Place::Wrapped),
            _ => None,
        };
        match next {
            Some(place) => {
                self.places.push(place);
                self.expects_key = byte == b'{';
                self.key = Key::Other;
            }
            None => self.below = self.below.saturating_add(1),
        }
    }

    fn close(&mut self) {
        if self.below > 0 {
            self.below -= 1;
        } else {
            self.places.pop();
            self.key = Key::Other;
        }
    }

    fn in_string(&mut self, byte: u8, tally: &mut Tally) {
        let Some(text) = &mut self.string else {
            return;
        };
        if text.escaped {
            text.escaped = false;
        } else if byte == b'\\' {
            text.escaped = true;
            // No name that is looked for has escapes.
            text.role = Role::Other;
        } else if byte == b'"' {
            let text = self.string.take();
            return text.map_or((), |text| self.read(&text, tally));
        }
        if text.role != Role::Other {
            if text.bytes.len() == MAX_TEXT {
                text.role = Role::Other;
            } else {
                text.bytes.push(byte);
            }
        }
    }

    fn read(&mut self, text: &Text, tally: &mut Tally) {
        match text.role {
            Role::Key => {
                self.key = match text.bytes.as_slice() {
                    b"usage" | b"usageMetadata" => Key::Usage,
                    b"model" | b"modelVersion" => Key::Model,
                    b"message" | b"response" => Key::Wrapper,
                    _ => Key::Other,
                };
            }
            Role::Model => {
                if let Ok(name) = std::str::from_utf8(&text.bytes) {
                    tally.model(name);
                }
            }
            // A name with escapes, or a long one, is none of ours.
            Role::Other if self.expects_key && self.below == 0 => self.key = Key::Other,
            Role::Other => {}
        }
    }

    fn captured(&mut self, byte: u8, tally: &mut Tally) {
        let Some(capture) = &mut self.capture else {
            return;
        };
        if capture.bytes.len() < MAX_USAGE {
            capture.bytes.push(byte);
        }
        if capture.in_string {
            match byte {
                _ if capture.escaped => capture.escaped = false,
                b'\\' => capture.escaped = true,
                b'"' => capture.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => capture.in_string = true,
            b'{' | b'[' => capture.depth = capture.depth.saturating_add(1),
            b'}' | b']' => capture.depth -= 1,
            _ => {}
        }
        if capture.depth == 0
            && let Some(capture) = self.capture.take()
            && capture.bytes.len() < MAX_USAGE
        {
            tally.usage(&capture.bytes);
        }
    }
}
