//! Drawing a snapshot: two lines in short, five tables below each other, the keys. Pure but for the frame that it draws into.
//!
//! What is wrong is red and bold; with `NO_COLOR`, bold alone. A table that has no room shows as many lines as it has, and where they are.

use longhaul_admin::Snapshot;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::tables::{TABLES, Table, Tone, in_short, tables};

/// Title and headings of a table.
const TABLE_HEAD: u16 = 2;
/// Lines of a table that has not the focus, when there is no room for all.
const UNFOCUSED_MAX: u16 = 4;
/// The two lines in short and an empty one, or what is wrong with the connection; and the keys.
const TOP: u16 = 3;
const BOTTOM: u16 = 1;
const KEYS: &str = "q quit   tab, left, right: table   up, down: scroll";

/// Colours, or none.
#[derive(Clone, Copy)]
pub(super) struct Palette {
    colours: bool,
}

impl Palette {
    pub(super) fn of(colours: bool) -> Self {
        Self { colours }
    }

    fn style(self, tone: Tone) -> Style {
        let (colour, modifier) = match tone {
            Tone::Well => return Style::new(),
            Tone::Warn => (Color::Yellow, Modifier::empty()),
            Tone::Bad => (Color::Red, Modifier::BOLD),
            Tone::Dim => (Color::DarkGray, Modifier::DIM),
        };
        let style = Style::new().add_modifier(modifier);
        if self.colours { style.fg(colour) } else { style }
    }
}

/// What whoever looks has chosen.
pub(super) struct View {
    palette: Palette,
    focus: usize,
    first: [usize; TABLES],
}

impl View {
    pub(super) fn new(palette: Palette) -> Self {
        Self { palette, focus: 0, first: [0; TABLES] }
    }

    /// Moves the focus by so many tables.
    pub(super) fn turn(&mut self, by: isize) {
        self.focus = self.focus.wrapping_add_signed(by.rem_euclid(TABLES as isize)) % TABLES;
    }

    /// Moves the table that has the focus by so many lines; the drawing keeps it inside.
    pub(super) fn scroll(&mut self, by: isize) {
        let first = &mut self.first[self.focus];
        *first = first.saturating_add_signed(by);
    }
}

/// Draws what is known.
pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, snapshot: Option<&Snapshot>, lost: Option<&str>) {
    let area = frame.area();
    let mut pen = Pen { frame, y: 0 };
    if let Some(snapshot) = snapshot {
        for (tone, text) in in_short(snapshot) {
            pen.line(Line::styled(text, view.palette.style(tone)));
        }
    }
    if let Some(lost) = lost {
        pen.line(Line::styled(format!("No contact: {lost}; what is shown is old"), view.palette.style(Tone::Bad)));
    } else if snapshot.is_none() {
        pen.line(Line::raw("Waiting for the first snapshot"));
    }
    let Some(snapshot) = snapshot else { return };
    pen.y = TOP;
    let tables = tables(snapshot);
    let room = area.height.saturating_sub(TOP + BOTTOM);
    let needs = tables
        .each_ref()
        .map(|table| TABLE_HEAD + u16::try_from(table.lines.len()).unwrap_or(u16::MAX - TABLE_HEAD - 1) + 1);
    for (at, height) in heights(needs, view.focus, room).into_iter().enumerate() {
        if height >= TABLE_HEAD {
            draw_table(&mut pen, view, at, &tables[at], height);
        }
    }
    pen.y = area.height.saturating_sub(1);
    pen.line(Line::styled(KEYS, Style::new().add_modifier(Modifier::DIM)));
}

/// Lines for each table: what it needs, if there is room for all; else little for those without the focus; else nothing for them.
fn heights(needs: [u16; TABLES], focus: usize, room: u16) -> [u16; TABLES] {
    let total = |heights: [u16; TABLES]| heights.into_iter().fold(0, u16::saturating_add);
    if total(needs) <= room {
        return needs;
    }
    for unfocused_max in [TABLE_HEAD + UNFOCUSED_MAX + 1, TABLE_HEAD, 0] {
        let mut heights = needs.map(|need| need.min(unfocused_max));
        heights[focus] = 0;
        let left = room.saturating_sub(total(heights));
        if left >= needs[focus].min(TABLE_HEAD + UNFOCUSED_MAX + 1) || unfocused_max == 0 {
            heights[focus] = left.min(needs[focus]);
            return heights;
        }
    }
    needs
}

fn draw_table(pen: &mut Pen<'_, '_>, view: &mut View, at: usize, table: &Table, height: u16) {
    let next = pen.y + height;
    let room = usize::from(height.saturating_sub(TABLE_HEAD + 1)).max(1);
    view.first[at] = view.first[at].min(table.lines.len().saturating_sub(room));
    let first = view.first[at];
    let last = (first + room).min(table.lines.len());
    let mark = if at == view.focus { "> " } else { "  " };
    let hidden = if last - first < table.lines.len() { format!(", {} to {last}", first + 1) } else { String::new() };
    let title =
        Style::new().add_modifier(if at == view.focus { Modifier::BOLD | Modifier::REVERSED } else { Modifier::BOLD });
    pen.line(Line::from(vec![Span::raw(mark), Span::styled(format!(" {}{hidden} ", table.title), title)]));
    pen.line(Line::styled(format!("  {}", table.headings), Style::new().add_modifier(Modifier::DIM)));
    for (tone, text) in table.lines[first..last].iter().take(usize::from(height.saturating_sub(TABLE_HEAD))) {
        pen.line(Line::styled(format!("  {text}"), view.palette.style(*tone)));
    }
    pen.y = next;
}

/// Puts one line below the other.
struct Pen<'a, 'b> {
    frame: &'a mut Frame<'b>,
    y: u16,
}

impl Pen<'_, '_> {
    fn line(&mut self, line: Line<'_>) {
        let area = self.frame.area();
        if self.y < area.height {
            self.frame.render_widget(line, Rect { y: self.y, height: 1, ..area });
        }
        self.y += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_what_they_need_while_there_is_room() {
        assert_eq!(heights([5, 5, 5, 4, 3], 0, 22), [5, 5, 5, 4, 3], "just enough");
        assert_eq!(heights([5, 5, 100, 4, 3], 2, 40), [5, 5, 23, 4, 3], "the one with the focus has the rest");
        assert_eq!(heights([20, 5, 100, 4, 3], 0, 40), [20, 5, 7, 4, 3]);
    }

    #[test]
    fn without_room_others_keep_their_names_or_nothing() {
        assert_eq!(heights([20, 20, 100, 4, 3], 2, 20), [2, 2, 12, 2, 2]);
        assert_eq!(heights([20, 20, 100, 4, 3], 2, 9), [0, 0, 9, 0, 0]);
        assert_eq!(heights([20, 20, 100, 4, 3], 4, 1), [0, 0, 0, 0, 1]);
    }

    #[test]
    fn the_focus_goes_round() {
        let mut view = View::new(Palette::of(false));
        view.turn(-1);
        assert_eq!(view.focus, TABLES - 1);
        view.turn(1);
        assert_eq!(view.focus, 0);
        view.scroll(isize::MIN);
        assert_eq!(view.first[0], 0, "nothing lies above the first line");
    }

    #[test]
    fn colours_are_left_out_on_request() {
        assert_eq!(Palette::of(true).style(Tone::Bad).fg, Some(Color::Red));
        let plain = Palette::of(false).style(Tone::Bad);
        assert_eq!((plain.fg, plain.add_modifier), (None, Modifier::BOLD), "what is wrong stands out all the same");
    }
}
