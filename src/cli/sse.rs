//! Reads an event stream as it arrives in pieces (HTML standard, "Server-sent events"; lines end in LF or CRLF).
//! Refuses an event that never ends.

/// Most bytes of one event, its lines together; those of the service have less than two thousand.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// An event is longer than anything that a service sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event has more than {MAX_EVENT_BYTES} bytes")]
pub(super) struct TooLong;

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
    /// Bytes of the event that is under way.
    size: usize,
}

impl Parser {
    /// Takes the next piece; returns the events that it completes.
    ///
    /// # Errors
    /// [`TooLong`]; the stream makes no sense after it.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Vec<Frame>, TooLong> {
        let mut frames = Vec::new();
        for &byte in piece {
            self.size += 1;
            if self.size > MAX_EVENT_BYTES {
                return Err(TooLong);
            }
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            if line.is_empty() {
                self.size = 0;
            }
            frames.extend(self.take(&line));
        }
        Ok(frames)
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
            let frames: Vec<Frame> =
                STREAM.as_bytes().chunks(size).flat_map(|piece| parser.push(piece).unwrap()).collect();
            assert_eq!(frames, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_that_never_ends_is_not_kept_for_ever() {
        for endless in [&b"x"[..], b"data: x\n", b": a comment\n", b"id: 1\r\n"] {
            let mut parser = Parser::default();
            let taken = (0..2 * MAX_EVENT_BYTES).map_while(|_| parser.push(endless).ok()).count();
            assert!(taken * endless.len() <= MAX_EVENT_BYTES, "{endless:?}");
            assert!(parser.line.len() + parser.data.iter().map(String::len).sum::<usize>() <= MAX_EVENT_BYTES);
        }
        // Many events that end are no matter, however they end.
        let mut parser = Parser::default();
        let many = "data: x\n\n: still here\r\n\r\n".repeat(100_000);
        assert_eq!(parser.push(many.as_bytes()).map(|frames| frames.len()), Ok(100_000));
    }
}
