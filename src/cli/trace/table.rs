//! A table in box-drawing characters: columns, rows and a width in, lines out.
//!
//! Every character counts as one column of the terminal, which is wrong for some scripts; their
//! rows end unevenly.

use crate::cli::output::{Paint, Style, harmless};

pub struct Column {
    pub title: &'static str,
    /// The share of the width that it gets, beside those of the others.
    pub share: usize,
    /// The least width that it gets, blanks included.
    pub least: usize,
    pub align: Align,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Center,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub paint: Option<Paint>,
}

impl Cell {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), paint: None }
    }
}

/// The lines of a table that is `width` wide; columns for which there is no room are left out.
pub fn lines<'a>(
    columns: &[Column],
    rows: impl Iterator<Item = &'a [Cell]>,
    width: usize,
    style: Style,
) -> Vec<String> {
    let mut used = 1;
    let fits = |column: &&Column| {
        used += column.least + 1;
        used <= width
    };
    let fitting = columns.iter().take_while(fits).count();
    let columns = &columns[..fitting];
    if columns.is_empty() {
        return Vec::new();
    }
    let widths = widths(columns, width);
    let border = |left: &str, between: &str, right: &str| {
        let parts: Vec<_> = widths.iter().map(|width| "─".repeat(*width)).collect();
        format!("{left}{}{right}", parts.join(between))
    };
    let line = |cells: &[Cell]| {
        let mut line = String::from("│");
        for ((cell, column), width) in cells.iter().zip(columns).zip(&widths) {
            line += &format!(" {} │", fit(cell, column.align, width - 2, style));
        }
        line
    };
    let titles: Vec<_> = columns
        .iter()
        .map(|column| Cell { text: column.title.to_owned(), paint: Some(Paint::Bold) })
        .collect();
    let mut lines = vec![border("┌", "┬", "┐"), line(&titles), border("├", "┼", "┤")];
    lines.extend(rows.map(line));
    lines.push(border("└", "┴", "┘"));
    lines
}

/// The widths between the borders; the columns with the largest share take what dividing leaves over.
fn widths(columns: &[Column], width: usize) -> Vec<usize> {
    let available = width - columns.len() - 1;
    let shares: usize = columns.iter().map(|column| column.share).sum();
    let mut widths: Vec<_> = columns
        .iter()
        .map(|column| (available * column.share / shares).max(column.least))
        .collect();
    let mut used: usize = widths.iter().sum();
    // Where the least width was more than the share, those that have more to spare give.
    while used > available {
        let spare = |(width, column): &(&mut usize, &Column)| width.saturating_sub(column.least);
        if let Some((width, _)) = widths.iter_mut().zip(columns).max_by_key(spare) {
            *width -= 1;
        }
        used -= 1;
    }
    let largest = columns.iter().map(|column| column.share).max();
    let takers: Vec<_> =
        (0..columns.len()).filter(|at| Some(columns[*at].share) == largest).collect();
    for at in takers.iter().cycle().take(available - used) {
        widths[*at] += 1;
    }
    widths
}

/// The cell's text, cut or filled to `width`.
fn fit(cell: &Cell, align: Align, width: usize, style: Style) -> String {
    let mut text = harmless(&cell.text);
    let length = text.chars().count();
    if length > width {
        text = text.chars().take(width.saturating_sub(1)).collect();
        text.push('…');
    }
    let blanks = width.saturating_sub(length);
    let before = match align {
        Align::Left => 0,
        Align::Center => blanks / 2,
    };
    if let Some(paint) = cell.paint {
        text = style.paint(paint, &text);
    }
    format!("{}{text}{}", " ".repeat(before), " ".repeat(blanks - before))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column { title: "Time", share: 12, least: 3, align: Align::Center },
        Column { title: "Text", share: 24, least: 3, align: Align::Left },
    ];

    fn table(rows: &[[&str; 2]], width: usize) -> Vec<String> {
        let rows: Vec<Vec<Cell>> =
            rows.iter().map(|row| row.iter().map(|text| Cell::new(*text)).collect()).collect();
        lines(COLUMNS, rows.iter().map(Vec::as_slice), width, Style::PLAIN)
    }

    #[test]
    fn cells_are_aligned_filled_and_cut() {
        assert_eq!(
            [
                "┌────────┬──────────────────┐",
                "│  Time  │ Text             │",
                "├────────┼──────────────────┤",
                "│   ab   │ abc              │",
                "│ abcde… │ 0123456789abcde… │",
                "│ abcdef │ 0123456789abcdef │",
                "└────────┴──────────────────┘",
            ],
            *table(
                &[["ab", "abc"], ["abcdefg", "0123456789abcdefg"], ["abcdef", "0123456789abcdef"],],
                29
            )
        );
    }

    #[test]
    fn every_line_is_as_wide_as_it_should_be() {
        for width in 0..200 {
            let lines = table(&[["ab", "c"], ["\u{1b}[31m\n", "ü€😀"]], width);
            assert_eq!(if width < 5 { 0 } else { 6 }, lines.len());
            for line in lines {
                assert_eq!(width, line.chars().count(), "{line}");
            }
        }
    }

    #[test]
    fn nothing_in_a_cell_controls_the_terminal() {
        let lines = table(&[["\u{1b}]0;x\u{7}", "a\r\nb\u{9b}2J\u{202e}"]], 40);
        assert!(lines.iter().flat_map(|line| line.chars()).all(|c| !c.is_control()));
        assert!(!lines[3].contains('\u{202e}'));
    }

    #[test]
    fn colours_take_no_room() {
        let cell = Cell { text: "ok".into(), paint: Some(Paint::Green) };
        let rows = [vec![cell, Cell::new("x")]];
        let lines = lines(COLUMNS, rows.iter().map(Vec::as_slice), 29, Style::COLOURED);
        assert_eq!("│   \u{1b}[32mok\u{1b}[0m   │ x                │", lines[3]);
    }
}
