//! Reads an event stream as it arrives in pieces (HTML standard, "Server-sent events"; lines end in LF or CRLF).

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// Where to resume after it; empty if the stream has not said so.
    pub(super) id: String,
    /// Its type.
    pub(super) event: String,
    /// Its data, lines joined.
    pub(super) data: String,
}

/// Takes pieces of a stream, gives events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    event: String,
    data: Vec<String>,
    id: String,
}

impl Parser {
    /// Takes the next piece; returns the events that it completes.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        for &byte in piece {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            frames.extend(self.take(&line));
        }
        frames
    }

    fn take(&mut self, line: &str) -> Option<Frame> {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => return self.dispatch(),
            "event" => value.clone_into(&mut self.event),
            "data" => self.data.push(value.to_owned()),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // A comment, `retry`, or a field of the future.
            _ => {}
        }
        None
    }

    /// An empty line ends an event; one without data is none.
    fn dispatch(&mut self) -> Option<Frame> {
        let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
        let frame = Frame { id: self.id.clone(), event, data: data.join("\n") };
        (!data.is_empty()).then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 1000\n\n: hello\n\nid: 1\nevent: started\ndata: {\"total\":3}\n\n\
                          id:2\r\nevent:image_complete\r\ndata:a\r\ndata: ü\r\n\r\nevent: cut off\ndata: x\n";

    fn frame(id: &str, event: &str, data: &str) -> Frame {
        Frame { id: id.to_owned(), event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_the_same_however_the_stream_is_cut() {
        let expected = [frame("1", "started", "{\"total\":3}"), frame("2", "image_complete", "a\nü")];
        for size in 1..STREAM.len() {
            let mut parser = Parser::default();
            let frames: Vec<Frame> = STREAM.as_bytes().chunks(size).flat_map(|piece| parser.push(piece)).collect();
            assert_eq!(frames, expected, "in pieces of {size}");
        }
    }
}
