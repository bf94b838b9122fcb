//! Tables for people.

use anyhow::Result;
use std::io::Write as _;

/// Prints a text and ends the line.
///
/// # Errors
/// Standard output is closed.
pub(super) fn say(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{}", text.trim_end())?)
}

/// Prints rows in columns; the first row is the heading.
///
/// # Errors
/// Standard output is closed.
pub(super) fn print(rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let cells = cells.map(|(cell, &width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// A row of anything that can be shown.
pub(super) fn row(cells: &[&dyn std::fmt::Display]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}
