//! Rows as JSONL: an item a line. Empty lines are no rows.

use super::at::{At, Faults};
use super::json;
use super::rows::Table;

/// Reads every line that a batch has room for, also after one that is broken.
pub(super) fn read(text: &str, max_rows: u32, faults: &mut Faults) -> Table {
    let (mut table, mut left) = (Table { rows: Vec::new(), count: 0 }, json::most_values(max_rows));
    let items = At::Root.key("items");
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        if table.count < max_rows as usize {
            let place = items.index(table.count);
            let at = At::Line(&place, number);
            let row = json::read_part(line.as_bytes(), &at, &mut left, faults);
            table
                .rows
                .push((number, row.map_err(|reason| faults.add(&at, format!("cannot be read as JSON: {reason}")))));
        }
        table.count += 1;
    }
    table
}
