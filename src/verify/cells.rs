//! Rows as named values, to compare what a table holds with what it must hold.

use std::borrow::Cow;
use std::fmt;

use rusqlite::types::ValueRef;
use serde_json::{Map, Value, json};

/// How far two floats may differ, relative to the greater.
const TOLERANCE: f64 = 1e-12;

/// How many columns of a row a difference shows.
const SHOWN: usize = 12;

/// A row's columns by name.
pub type Row = Vec<(Cow<'static, str>, Cell)>;

/// A value of a column.
#[derive(Clone, Debug)]
pub enum Cell {
    /// NULL.
    Null,
    /// An INTEGER.
    Integer(i64),
    /// A REAL.
    Real(f64),
    /// A TEXT, or what no column of ours should hold, as text.
    Text(String),
}

impl Cell {
    fn same(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Integer(a), Cell::Integer(b)) => a == b,
            (Cell::Text(a), Cell::Text(b)) => a == b,
            (Cell::Real(a), Cell::Real(b)) => (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()),
            _ => false,
        }
    }

    /// The value in a key.
    pub fn to_json(&self) -> Value {
        match self {
            Cell::Null => Value::Null,
            Cell::Integer(number) => json!(number),
            Cell::Real(number) => json!(number),
            Cell::Text(text) => json!(text),
        }
    }
}

impl From<ValueRef<'_>> for Cell {
    fn from(value: ValueRef<'_>) -> Cell {
        match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(number) => Cell::Integer(number),
            ValueRef::Real(number) => Cell::Real(number),
            ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(blob) => Cell::Text(format!("a blob of {} bytes", blob.len())),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Null => f.write_str("null"),
            Cell::Integer(number) => write!(f, "{number}"),
            Cell::Real(number) => write!(f, "{number:?}"),
            Cell::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// The columns in which two rows differ, of either row as text; none if the rows are the same.
pub fn differing(expected: &Row, found: &Row) -> Option<(String, String)> {
    let (mut left, mut right) = (Row::new(), Row::new());
    for at in 0..expected.len().max(found.len()) {
        let pair = (expected.get(at), found.get(at));
        if let (Some((_, a)), Some((_, b))) = pair
            && a.same(b)
        {
            continue;
        }
        left.extend(pair.0.cloned());
        right.extend(pair.1.cloned());
    }
    if left.is_empty() && right.is_empty() { None } else { Some((in_full(&left), in_full(&right))) }
}

/// A row as text; of very long rows the beginning.
pub fn in_full(row: &Row) -> String {
    if row.is_empty() {
        return "no more".into();
    }
    let mut text = String::new();
    for (name, cell) in row.iter().take(SHOWN) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&format!("{name}={cell}"));
    }
    if row.len() > SHOWN {
        text.push_str(&format!(", and {} more", row.len() - SHOWN));
    }
    text
}

/// A row of `rtb_ranking_cache` with the JSON list laid out, a cell for each field of each entry.
pub fn ranking_cells(row: Row) -> Row {
    let mut cells = Row::new();
    for (name, cell) in row {
        match cell {
            Cell::Text(list) if name == "ranking_list" => match serde_json::from_str(&list) {
                Ok(entries) => lay_out(entries, &mut cells),
                Err(error) => cells.push((name, Cell::Text(format!("no list: {error}")))),
            },
            cell => cells.push((name, cell)),
        }
    }
    cells
}

fn lay_out(entries: Vec<Map<String, Value>>, cells: &mut Row) {
    for (at, entry) in entries.iter().enumerate() {
        for name in ["campaign_id", "score", "bid_price", "product_id", "advertiser_id"] {
            let value = entry.get(name).unwrap_or(&Value::Null);
            // The price must be a number with its two decimals: its text says so. A string would keep its
            // quotes.
            let cell = match name {
                "score" => value.as_f64().map(Cell::Real),
                "bid_price" => None,
                _ => value.as_i64().map(Cell::Integer),
            };
            cells.push((
                format!("[{at}].{name}").into(),
                cell.unwrap_or_else(|| Cell::Text(value.to_string())),
            ));
        }
    }
}
