//! Rows as CSV: a header row with the names, then an item a row.
//!
//! Taken as spreadsheets write it: commas, semicolons or tabs between cells (the header row tells), line ends of any
//! kind, line ends and quotes in quoted cells, rows and columns that are empty. An empty cell is an absent member.

use csv_core::{ReadFieldResult, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::at::{At, Faults, Noted};
use super::fields::{Known, names};
use super::items::ITEM;
use super::rows::Table;

/// The columns that there must be.
const NEEDED: Known = ITEM.split_at(2).0;
/// Most cells in a row. Seven have a meaning, and spreadsheets leave empty ones behind.
const MAX_CELLS: usize = 256;
/// Most addresses in a cell. An item takes six after equal ones are counted once.
const MAX_ADDRESSES: usize = 64;

/// Reads every row that a batch has room for.
pub(super) fn read(text: &str, max_rows: usize, faults: &mut Faults) -> Result<Table, Noted> {
    let mut records = Records::of(text);
    let Some(header) = records.next(faults)? else {
        let detail = "is empty; send a header row such as sceneId,prompt and a row for each item";
        return Err(faults.add(&At::Root, detail));
    };
    let columns = Columns::read(&header, faults)?;
    let mut table = Table { rows: Vec::new(), count: 0 };
    while let Some(record) = records.next(faults)? {
        if table.count < max_rows {
            let place = At::Root.key("items");
            let place = place.index(table.count);
            let row = columns.row(&record, &At::Line(&place, record.line), faults);
            table.rows.push((record.line, row));
        }
        table.count += 1;
    }
    Ok(table)
}

/// What each column is. `None` is one without a name.
struct Columns(Vec<Option<&'static str>>);

impl Columns {
    fn read(header: &Record, faults: &mut Faults) -> Result<Self, Noted> {
        let place = At::Root.key("items");
        let place = place.index(0);
        let at = At::Line(&place, header.line);
        let mut columns: Vec<Option<&'static str>> = Vec::with_capacity(header.cells.len());
        let mut refused = None;
        for name in header.cells.iter().map(|cell| cell.trim()) {
            let known = ITEM
                .iter()
                .find_map(|spellings| spellings.iter().copied().find(|spelling| spelling.eq_ignore_ascii_case(name)));
            let same = |one: &str, other: &str| ITEM.iter().any(|of| of.contains(&one) && of.contains(&other));
            if name.is_empty() {
                columns.push(None);
            } else if let Some(known) = known {
                if columns.iter().flatten().any(|earlier| same(earlier, known)) {
                    refused = Some(faults.add(&at.key(known), "two columns have this meaning; keep one of them"));
                }
                columns.push(Some(known));
            } else {
                let detail = format!("unknown column; known here: {}", names(ITEM).join(", "));
                refused = Some(faults.add_named(&at, name, detail));
            }
        }
        for spellings in NEEDED {
            if !columns.iter().flatten().any(|column| spellings.contains(column)) && refused.is_none() {
                let detail = format!(
                    "no column has this name; the header row must name at least {}",
                    names(NEEDED).join(" and ")
                );
                refused = Some(faults.add(&at.key(spellings[0]), detail));
            }
        }
        refused.map_or(Ok(Self(columns)), Err)
    }

    /// The same as JSON.
    fn row(&self, record: &Record, at: &At<'_>, faults: &mut Faults) -> Result<Value, Noted> {
        let mut members = Map::new();
        for (index, cell) in record.cells.iter().enumerate().filter(|(_, cell)| !cell.trim().is_empty()) {
            let Some(name) = self.0.get(index).copied().flatten() else {
                let detail = format!(
                    "cell {} is under no name of the header row; a text with a comma or a line end goes in quotes",
                    index + 1
                );
                return Err(faults.add(at, detail));
            };
            members.insert(name.to_owned(), value(name, cell, &at.key(name), faults)?);
        }
        Ok(members.into())
    }
}

/// What a cell says.
fn value(name: &str, cell: &str, at: &At<'_>, faults: &mut Faults) -> Result<Value, Noted> {
    Ok(match name {
        "prompt" => cell.into(),
        "variants" => cell.trim().parse::<u64>().map_or_else(|_| cell.into(), Value::from),
        "references" => {
            let addresses: Vec<Value> = cell.split_whitespace().take(MAX_ADDRESSES + 1).map(Value::from).collect();
            if addresses.len() > MAX_ADDRESSES {
                return Err(faults.add(at, format!("more than {MAX_ADDRESSES} addresses in a cell")));
            }
            addresses.into()
        }
        _ => cell.trim().into(),
    })
}

/// A row that is not empty.
struct Record {
    /// The line on which it starts, counting from 1.
    line: u32,
    cells: Vec<String>,
}

struct Records<'a> {
    reader: Reader,
    left: &'a [u8],
    line: u32,
    after_return: bool,
    /// Where a piece of a cell is written.
    room: Box<[u8; 4096]>,
}

impl<'a> Records<'a> {
    fn of(text: &'a str) -> Self {
        let (delimiter, head) = delimiter(text);
        let reader = ReaderBuilder::new().delimiter(delimiter).build();
        let mut records =
            Self { reader, left: text.as_bytes(), line: 1, after_return: false, room: Box::new([0; 4096]) };
        records.advance(head);
        records
    }

    /// The next row that is not empty.
    fn next(&mut self, faults: &mut Faults) -> Result<Option<Record>, Noted> {
        loop {
            let line_ends = self.left.iter().take_while(|byte| b"\r\n".contains(byte)).count();
            self.advance(line_ends);
            if self.left.is_empty() {
                return Ok(None);
            }
            let line = self.line;
            let cells = self.cells().map_err(|detail| faults.add(&At::Line(&At::Root, line), detail))?;
            if cells.iter().any(|cell| !cell.trim().is_empty()) {
                return Ok(Some(Record { line, cells }));
            }
        }
    }

    fn cells(&mut self) -> Result<Vec<String>, String> {
        let (mut cells, mut cell) = (Vec::new(), Vec::new());
        loop {
            // The text may end without a line end; one that is put in ends the row, unless a quote is open.
            let ended = self.left.is_empty();
            let (result, read, wrote) =
                self.reader.read_field(if ended { b"\n" } else { self.left }, &mut self.room[..]);
            if !ended {
                self.advance(read);
            }
            cell.extend_from_slice(&self.room[..wrote]);
            match result {
                ReadFieldResult::InputEmpty if ended => {
                    return Err("a quote is opened in the row that starts here and never closed".to_owned());
                }
                ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
                ReadFieldResult::Field { .. } if cells.len() == MAX_CELLS => {
                    return Err(format!("a row may have at most {MAX_CELLS} cells"));
                }
                ReadFieldResult::Field { record_end } => {
                    cells.push(String::from_utf8_lossy(&cell).into_owned());
                    cell.clear();
                    if record_end {
                        return Ok(cells);
                    }
                }
                ReadFieldResult::End => return Ok(cells),
            }
        }
    }

    fn advance(&mut self, bytes: usize) {
        let (read, left) = self.left.split_at(bytes);
        for &byte in read {
            if byte == b'\r' || (byte == b'\n' && !self.after_return) {
                self.line += 1;
            }
            self.after_return = byte == b'\r';
        }
        self.left = left;
    }
}

/// What stands between cells, and how many bytes at the start say no more than that.
fn delimiter(text: &str) -> (u8, usize) {
    let first = text.split(['\r', '\n']).find(|line| !line.is_empty()).unwrap_or_default();
    // Excel writes, and reads, a first line that names the delimiter.
    if let Some([delimiter @ (b',' | b';' | b'\t')]) = first.strip_prefix("sep=").map(str::as_bytes) {
        let head = text.find(first).unwrap_or_default() + first.len();
        return (*delimiter, head);
    }
    let count = |delimiter: u8| first.bytes().filter(|&byte| byte == delimiter).count();
    let delimiter = [b',', b';', b'\t'].into_iter().rev().max_by_key(|&delimiter| count(delimiter));
    (delimiter.unwrap_or(b','), 0)
}
