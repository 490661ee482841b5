//! Cuts the objects out of a long JSON document as it arrives, so that the agent never holds the whole of it.
//!
//! The kubelet's answers are one object, `{"node": {…}, "pods": [{…}, …]}`. Cut out is each object that is a member of the
//! document or an element of an array that is one. Only as much of the grammar is checked as is needed for that; the objects
//! themselves are parsed by their reader.

/// The largest object that is cut out. A pod of the Kubernetes API has 1.5 MiB at most.
const MAX_OBJECT_BYTES: usize = 2 << 20;

/// The longest name of a member that is recognised.
const MAX_NAME_BYTES: usize = 64;

/// Why a document cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SplitError {
    /// It is not a JSON object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// It ends before its last bracket.
    #[error("it is cut off")]
    CutOff,
    /// A member or an element of it is too large.
    #[error("a part of it is larger than {MAX_OBJECT_BYTES} bytes")]
    TooLarge,
}

/// Where in a string the next byte is.
#[derive(Debug, Default, PartialEq, Eq)]
enum Text {
    #[default]
    Outside,
    Inside,
    /// Behind a backslash.
    Escaped,
}

/// The state between two pieces of a document.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    depth: u32,
    text: Text,
    ended: bool,
    /// Whether the member that is being read is an array.
    in_array: bool,
    /// The name of the member that is being read.
    name: String,
    /// The object that is being cut out, and the depth around it.
    object: Option<u32>,
    /// What earlier pieces had of it.
    bytes: Vec<u8>,
}

/// What a byte is to the object that is cut out.
enum Step {
    Within,
    /// Its first.
    Starts,
    /// Its last.
    Ends,
}

impl Splitter {
    /// Reads the next piece and calls `found` with the member's name and each object that ends in it.
    pub(super) fn read(&mut self, piece: &[u8], found: &mut impl FnMut(&str, &[u8])) -> Result<(), SplitError> {
        // Where the part of the object starts that is not in `bytes`.
        let (mut start, mut at) = (0, 0);
        loop {
            at += self.meaningless_bytes(&piece[at..]);
            let Some(byte) = piece.get(at) else { break };
            match self.byte(*byte)? {
                Step::Within => {}
                Step::Starts => start = at,
                Step::Ends if self.bytes.is_empty() && at - start < MAX_OBJECT_BYTES => found(&self.name, &piece[start..=at]),
                Step::Ends => {
                    self.keep(&piece[start..=at])?;
                    found(&self.name, &self.bytes);
                    self.bytes.clear();
                }
            }
            at += 1;
        }
        if self.object.is_some() { self.keep(&piece[start..]) } else { Ok(()) }
    }

    /// How many of the next bytes change nothing: nearly all of a document is inside of strings or numbers.
    fn meaningless_bytes(&self, piece: &[u8]) -> usize {
        let next = match self.text {
            // The name of a member is collected.
            Text::Inside if self.depth == 1 => Some(0),
            Text::Inside => piece.iter().position(|byte| matches!(byte, b'"' | b'\\')),
            Text::Outside if self.depth > 0 => piece.iter().position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']')),
            _ => Some(0),
        };
        next.unwrap_or(piece.len())
    }

    /// Keeps a part of an object until the rest of it comes.
    fn keep(&mut self, part: &[u8]) -> Result<(), SplitError> {
        if self.bytes.len() + part.len() > MAX_OBJECT_BYTES {
            return Err(SplitError::TooLarge);
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    /// Whether the document was whole.
    pub(super) fn finish(&self) -> Result<(), SplitError> {
        if self.ended { Ok(()) } else { Err(SplitError::CutOff) }
    }

    fn byte(&mut self, byte: u8) -> Result<Step, SplitError> {
        if self.text != Text::Outside {
            self.string_byte(byte);
            return Ok(Step::Within);
        }
        let mut step = Step::Within;
        match byte {
            _ if self.depth == 0 && (self.ended || byte != b'{') => {
                return if byte.is_ascii_whitespace() { Ok(step) } else { Err(SplitError::NotAnObject) };
            }
            b'"' => {
                self.text = Text::Inside;
                if self.depth == 1 {
                    self.name.clear();
                }
            }
            b'{' | b'[' => {
                if byte == b'{' && (self.depth == 1 || (self.depth == 2 && self.in_array)) && self.object.is_none() {
                    self.object = Some(self.depth);
                    step = Step::Starts;
                }
                if self.depth == 1 {
                    self.in_array = byte == b'[';
                }
                self.depth = self.depth.saturating_add(1);
            }
            b'}' | b']' => {
                self.depth -= 1;
                self.ended = self.depth == 0;
                if self.object == Some(self.depth) {
                    self.object = None;
                    step = Step::Ends;
                }
            }
            _ => {}
        }
        Ok(step)
    }

    fn string_byte(&mut self, byte: u8) {
        match byte {
            _ if self.text == Text::Escaped => self.text = Text::Inside,
            b'\\' => self.text = Text::Escaped,
            b'"' => self.text = Text::Outside,
            _ if self.depth == 1 && self.name.len() < MAX_NAME_BYTES && byte.is_ascii() => self.name.push(char::from(byte)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn split(document: &[u8], piece_bytes: usize) -> Result<Vec<(String, Value)>, SplitError> {
        let (mut splitter, mut all) = (Splitter::default(), Vec::new());
        for piece in document.chunks(piece_bytes) {
            splitter.read(piece, &mut |name, object| {
                all.push((name.to_owned(), serde_json::from_slice(object).unwrap_or(Value::Null)));
            })?;
        }
        splitter.finish()?;
        Ok(all)
    }

    #[test]
    fn members_and_elements_are_cut_out_whatever_the_pieces_are() {
        let document = br#" {"kind":"x","node":{"a":{"b":[{"c":"}\"]"}]}},"n":[1,[{"deep":1}],"{"],
            "pods":[{"p":1},{"p":{"q":[]}}],"end":null} "#;
        let expected = [
            ("node".to_owned(), json!({"a": {"b": [{"c": "}\"]"}]}})),
            ("pods".to_owned(), json!({"p": 1})),
            ("pods".to_owned(), json!({"p": {"q": []}})),
        ];
        for piece_bytes in 1..document.len() {
            assert_eq!(split(document, piece_bytes).unwrap(), expected, "{piece_bytes}");
        }
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for (document, error) in [
            (&b""[..], SplitError::CutOff),
            (b"{\"pods\":[{\"a\":1}", SplitError::CutOff),
            (b"{\"pods\":\"", SplitError::CutOff),
            (b"[{}]", SplitError::NotAnObject),
            (b"<html>", SplitError::NotAnObject),
            (b"{}}", SplitError::NotAnObject),
            (b"404 page not found", SplitError::NotAnObject),
        ] {
            assert_eq!(split(document, 3), Err(error), "{}", String::from_utf8_lossy(document));
        }
        let huge = format!("{{\"pods\":[{{\"a\":\"{}\"}}]}}", "x".repeat(MAX_OBJECT_BYTES));
        assert_eq!(split(huge.as_bytes(), 1 << 16), Err(SplitError::TooLarge));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            document in r#"[ \{]{0,2}("(a|pods|\\"|[{}\[\]])?"|[\{\}\[\]:,1 ]){0,40}"#, piece_bytes in 1_usize..20
        ) {
            prop_assert_eq!(split(document.as_bytes(), piece_bytes), split(document.as_bytes(), document.len().max(1)));
        }

        #[test]
        fn no_bytes_panic(document in proptest::collection::vec(prop_oneof![
            Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b'"'), Just(b'\\'), Just(b':'), any::<u8>()
        ], 0..200)) {
            let _ = split(&document, 7);
        }
    }
}
