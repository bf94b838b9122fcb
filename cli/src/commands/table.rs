//! Tables in kubectl's manner: columns as wide as their widest cell, three
//! spaces between them, none at the end of a line.

/// Space between two columns.
const GAP: usize = 3;

/// The lines of a table, the head first.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(widths) {
            line.push_str(cell);
            let fill = width.saturating_sub(cell.chars().count()) + GAP;
            line.extend(std::iter::repeat_n(' ', fill));
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_last_cell() {
        let rows = [
            ["a".to_owned(), "sandbox/web".to_owned(), "5m".to_owned()],
            ["näher".to_owned(), "x".to_owned(), "10s".to_owned()],
        ];
        assert_eq!(
            table(["ID", "SANDBOX", "AGE"], &rows),
            [
                "ID      SANDBOX       AGE",
                "a       sandbox/web   5m",
                "näher   x             10s",
            ]
        );
    }
}
