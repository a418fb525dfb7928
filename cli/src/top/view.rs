//! What is drawn on the terminal, and what do keys change?

use std::collections::HashSet;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Gauge, Paragraph, Row, Table, TableState};

use super::source::Seen;
use crate::http::query::Sort;
use crate::http::rows;
use crate::http::status::{Changed, Input, Status, Usage};
use crate::http::text::{age, bytes, count, duration, known, rate, some};

/// The most lines that workers, and what changed, may take.
const WORKER_LINES: usize = 8;
const CHANGE_LINES: usize = 5;

/// What follows a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Stay,
    End,
}

/// What is shown, and what the user chose.
#[derive(Debug, Default)]
pub(crate) struct View {
    seen: Option<Seen>,
    sort: Sort,
    filter: String,
    /// Whether keys are letters of the filter.
    is_typing: bool,
    table: TableState,
    /// The number of shards that are shown, and that fit on the screen.
    rows: usize,
    fits: usize,
}

impl View {
    /// Takes what was said last.
    pub(crate) fn see(&mut self, seen: Seen) {
        self.seen = Some(seen);
    }

    /// Does what a key asks for.
    pub(crate) fn press(&mut self, key: KeyEvent) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Next::End;
        }
        match key.code {
            KeyCode::Esc if self.is_typing => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Backspace if self.is_typing => {
                self.filter.pop();
            }
            KeyCode::Char(letter) if self.is_typing => self.filter.push(letter),
            KeyCode::Char('q') | KeyCode::Esc => return Next::End,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s') => {
                self.sort = match self.sort {
                    Sort::Lag => Sort::Rate,
                    Sort::Rate => Sort::InFlight,
                    Sort::InFlight => Sort::Shard,
                    Sort::Shard => Sort::Lag,
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::PageDown => self.scroll(self.fits.cast_signed()),
            KeyCode::PageUp => self.scroll(-self.fits.cast_signed()),
            KeyCode::Home => *self.table.offset_mut() = 0,
            KeyCode::End => self.scroll(self.rows.cast_signed()),
            _ => {}
        }
        Next::Stay
    }

    fn scroll(&mut self, by: isize) {
        let last = self.rows.saturating_sub(self.fits);
        let offset = self.table.offset().saturating_add_signed(by).min(last);
        *self.table.offset_mut() = offset;
    }

    /// Draws everything.
    pub(crate) fn draw(&mut self, frame: &mut Frame<'_>) {
        let Some(seen) = self.seen.take() else {
            frame.render_widget(Paragraph::new("asking …"), frame.area());
            return;
        };
        let statuses: Vec<&Status> = seen.workers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
        let inputs: Vec<&Input> = statuses.iter().flat_map(|status| &status.inputs).collect();
        let changes = changes(&inputs);
        let workers = workers(&seen);
        let lines = |number: usize, most: usize| number.min(most) as u16;
        let [head, pools, others, shards, changed, keys] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(u16::from(!inputs.is_empty())),
            Constraint::Length(lines(workers.len(), WORKER_LINES) + 2),
            Constraint::Min(4),
            Constraint::Length(if changes.is_empty() { 0 } else { lines(changes.len(), CHANGE_LINES) + 1 }),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(headline(&seen, &statuses), head);
        draw_pool(frame, pools, &inputs);
        let header =
            Row::new(["WORKER", "STATE", "SHARDS", "LAG", "READ/S", "ACKED/S", "WAITING", "REASON"]).style(quiet());
        let widths = [
            Constraint::Length(24),
            Constraint::Length(12),
            Constraint::Length(7),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Min(10),
        ];
        let block = Block::new().borders(Borders::TOP).title("Workers ").border_style(quiet());
        frame.render_widget(Table::new(workers, widths).header(header).block(block), others);
        self.draw_shards(frame, shards, &inputs, &seen);
        if !changes.is_empty() {
            let block = Block::new().borders(Borders::TOP).title("What changed lately ").border_style(quiet());
            let lines: Vec<Line<'_>> = changes.into_iter().take(CHANGE_LINES).map(changed_line).collect();
            frame.render_widget(Paragraph::new(lines).block(block), changed);
        }
        let help = if self.is_typing {
            Line::from(format!("filter: {}▏  Enter keeps it, Esc clears it", self.filter))
        } else {
            Line::from("q quit   ↑ ↓ scroll   s sort   / filter").style(quiet())
        };
        frame.render_widget(Paragraph::new(help), keys);
        self.seen = Some(seen);
    }

    fn draw_shards(&mut self, frame: &mut Frame<'_>, area: Rect, inputs: &[&Input], seen: &Seen) {
        let mut all = rows::of(inputs.iter().copied(), &seen.fleet);
        let total = all.len();
        rows::arrange(&mut all, &self.filter, self.sort);
        (self.rows, self.fits) = (all.len(), usize::from(area.height.saturating_sub(2)));
        self.scroll(0);
        let offset = self.table.offset();
        let one_stream = all.iter().all(|row| Some(row.stream) == all.first().map(|row| row.stream));
        let shown = all.iter().skip(offset).take(self.fits).map(|row| {
            let shard = if one_stream { row.shard.to_owned() } else { format!("{} {}", row.stream, row.shard) };
            let own =
                |value: Option<String>| Cell::from(Line::from(value.unwrap_or("–".into())).alignment(Alignment::Right));
            let (style, trouble) = row.trouble().map_or_else(
                || {
                    let error = row.own.and_then(|own| own.last_error.as_deref().zip(own.last_error_seconds_ago));
                    (quiet(), error.map(|(error, ago)| format!("{error}, {} ago", age(ago))).unwrap_or_default())
                },
                |(tone, trouble)| (style(tone), trouble),
            );
            Row::new([
                Cell::from(shard),
                Cell::from(row.owner.unwrap_or("nobody").to_owned()),
                own(row.own.map(|own| age(own.lag_seconds))),
                own(row.own.map(|own| known(own.rates.read_records, rate))),
                own(row.own.map(|own| count(own.in_flight_records))),
                own(row.own.map(|own| count(own.pending_records))),
                Cell::from(trouble).style(style),
            ])
            .style(if row.own.is_some() { Style::new() } else { quiet() })
        });
        let range = if self.rows > self.fits {
            format!(", {} to {}", offset + 1, (offset + self.fits).min(self.rows))
        } else {
            String::new()
        };
        let found = if self.rows < total { format!("{} of ", count(self.rows as u64)) } else { String::new() };
        let title = format!("Shards by {}: {found}{}{range} ", self.sort.name(), count(total as u64));
        let block = Block::new().borders(Borders::TOP).title(title).border_style(quiet());
        let right = |text: &'static str| Line::from(text).alignment(Alignment::Right);
        let header = Row::new([
            Line::from("SHARD"),
            Line::from("OWNER"),
            right("LAG"),
            right("READ/S"),
            right("IN FLIGHT"),
            right("UNACKED"),
            Line::from("WHAT IS WRONG, AND THE LAST ERROR"),
        ]);
        let widths = [
            Constraint::Length(if one_stream { 20 } else { 36 }),
            Constraint::Length(16),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Min(10),
        ];
        // The rows are already those from the offset on.
        let table = Table::new(shown.collect::<Vec<_>>(), widths).header(header.style(quiet())).block(block);
        frame.render_widget(table, area);
    }
}

fn quiet() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// The colors are those of the user's terminal.
fn style(tone: &str) -> Style {
    match tone {
        "good" => Style::new().fg(Color::Green),
        "warn" => Style::new().fg(Color::Yellow),
        "bad" => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        _ => Style::new(),
    }
}

fn headline(seen: &Seen, statuses: &[&Status]) -> Paragraph<'static> {
    let unready = statuses.iter().filter(|status| !status.ready).count();
    let silent = seen.workers.len() - statuses.len();
    let lag = statuses.iter().filter_map(|status| status.lag_seconds).max_by(f64::total_cmp);
    let inputs = || statuses.iter().flat_map(|status| &status.inputs);
    let sum = |of: fn(&Input) -> Option<f64>| inputs().filter_map(of).reduce(|a, b| a + b);
    let (tone, text) = if seen.workers.is_empty() {
        ("", "Lease table".to_owned())
    } else if silent > 0 {
        ("bad", format!("{} not answer", some(silent as u64, "worker does", "workers do")))
    } else if unready > 0 {
        ("bad", format!("{} not ready", some(unready as u64, "worker is", "workers are")))
    } else {
        ("good", format!("{} ready", some(statuses.len() as u64, "worker is", "workers are")))
    };
    let mut first = vec![Span::styled(text, style(tone).add_modifier(Modifier::BOLD))];
    if !statuses.is_empty() {
        first.push(Span::raw(format!(
            "   lag {}   read {}/s, {}/s   acknowledged {}/s",
            known(lag, age),
            known(sum(|input| input.rates.read_records), rate),
            known(sum(|input| input.rates.read_bytes), bytes),
            known(sum(|input| input.rates.acked_records), rate),
        )));
    }
    let number = |state: &str| count(seen.fleet.shards.iter().filter(|shard| shard.state == state).count() as u64);
    let second = match (&seen.fleet.error, seen.fleet.read_seconds_ago) {
        (Some(error), _) => Line::styled(format!("the lease table can't be read: {error}"), style("bad")),
        (None, Some(ago)) if seen.fleet.shared => {
            let (held, free, ended) = (number("held"), number("free"), number("ended"));
            Line::styled(format!("{held} shards held, {free} free, {ended} ended, {} ago", age(ago)), quiet())
        }
        _ => Line::default(),
    };
    Paragraph::new(vec![Line::from(first), second])
}

fn draw_pool(frame: &mut Frame<'_>, area: Rect, inputs: &[&Input]) {
    // The fullest says the most.
    let part = |usage: &Usage| usage.used as f64 / usage.capacity.max(1) as f64;
    let pools = inputs.iter().filter_map(|input| input.pool.as_ref());
    let fullest = pools.max_by(|a, b| {
        let of = |pool: &crate::http::status::Pool| part(&pool.records).max(part(&pool.bytes));
        of(a).total_cmp(&of(b))
    });
    let Some(pool) = fullest else { return };
    let gauge = |title: &str, usage: &Usage, used: String, capacity: String| {
        let waits = if usage.waiting > 0 { format!(", {} wait", count(usage.waiting)) } else { String::new() };
        let tone = if usage.waiting > 0 { Color::Red } else { Color::Blue };
        Gauge::default()
            .ratio(part(usage).clamp(0.0, 1.0))
            .gauge_style(Style::new().fg(tone))
            .label(format!("{title} {used} of {capacity}{waits}"))
    };
    let [left, _, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(2), Constraint::Fill(1)]).areas(area);
    let (records, held) = (&pool.records, &pool.bytes);
    frame.render_widget(gauge("records", records, count(records.used), count(records.capacity)), left);
    frame.render_widget(gauge("bytes", held, bytes(held.used as f64), bytes(held.capacity as f64)), right);
}

/// A row for each worker that was asked, and for each other worker of the table.
fn workers(seen: &Seen) -> Vec<Row<'static>> {
    let mut known_names = HashSet::new();
    let mut rows = Vec::new();
    for (address, answer) in &seen.workers {
        match answer {
            Err(error) => {
                let cells =
                    [address.clone(), "no answer".into(), "–".into(), "–".into(), "–".into(), "–".into(), "–".into()];
                let cells = cells.into_iter().map(Cell::from).chain([Cell::from(error.clone())]);
                rows.push(Row::new(cells.collect::<Vec<_>>()).style(style("bad")));
            }
            Ok(status) => {
                for input in &status.inputs {
                    known_names.insert(input.worker.clone());
                    rows.push(worker(input, status.ready));
                }
                if status.inputs.is_empty() {
                    let reason = status.reason.clone().unwrap_or_default();
                    let cells = [
                        address.clone(),
                        "starting".into(),
                        "–".into(),
                        "–".into(),
                        "–".into(),
                        "–".into(),
                        "–".into(),
                        reason,
                    ];
                    rows.push(Row::new(cells.map(Cell::from)));
                }
            }
        }
    }
    for other in seen.fleet.workers.iter().filter(|worker| !known_names.contains(&worker.worker)) {
        let (tone, heard) = match other.seen_seconds_ago {
            Some(ago) if ago >= rows::SILENT_SECONDS => {
                ("bad", format!("no heartbeat for {}", duration(ago.unsigned_abs())))
            }
            Some(ago) => ("", format!("last heartbeat {} ago", duration(ago.max(0).unsigned_abs()))),
            None => ("", String::new()),
        };
        let state = if tone == "bad" { "silent" } else { "alive" };
        let cells = [
            other.worker.clone(),
            state.into(),
            count(other.shards),
            "–".into(),
            "–".into(),
            "–".into(),
            "–".into(),
            heard,
        ];
        rows.push(Row::new(cells.map(Cell::from)).style(style(tone)));
    }
    rows
}

fn worker(input: &Input, ready: bool) -> Row<'static> {
    let waiting = input.pool.as_ref().map_or(0, |pool| pool.records.waiting + pool.bytes.waiting);
    let cells = [
        input.worker.clone(),
        if input.leases_valid == Some(false) { "expired".to_owned() } else { input.state.clone() },
        count(input.shards.len() as u64),
        known(input.lag_seconds, age),
        known(input.rates.read_records, rate),
        known(input.rates.acked_records, rate),
        count(waiting),
        input.reason.clone().unwrap_or_default(),
    ];
    Row::new(cells.map(Cell::from)).style(style(if ready { "" } else { "bad" }))
}

fn changes<'a>(inputs: &[&'a Input]) -> Vec<&'a Changed> {
    let mut changes: Vec<_> = inputs.iter().flat_map(|input| &input.changes).collect();
    changes.sort_by(|a, b| a.seconds_ago.total_cmp(&b.seconds_ago));
    changes
}

fn changed_line(change: &Changed) -> Line<'static> {
    let (tone, what) = rows::change(change);
    let beside = rows::beside(change).map(|beside| format!(" {beside}")).unwrap_or_default();
    let shard = change.shard.as_deref().map(|shard| format!(": {shard}")).unwrap_or_default();
    let more = if change.count > 1 && change.shard.is_some() {
        format!(" and {} before it", count(change.count - 1))
    } else {
        String::new()
    };
    Line::from(vec![
        Span::styled(format!("{:>10} ago  ", age(change.seconds_ago)), quiet()),
        Span::styled(what, style(tone)),
        Span::raw(format!("{beside}{shard}{more}")),
    ])
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::http::sample;
    use crate::http::status::{Fleet, Pool};

    fn screen(view: &mut View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content.chunks(120).map(|line| {
            let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn press(view: &mut View, code: KeyCode) -> Next {
        view.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn of(status: Status, fleet: Fleet) -> View {
        let mut view = View::default();
        view.see(Seen { workers: vec![("orders-0:9100".into(), Ok(status))], fleet });
        view
    }

    #[test]
    fn workers_and_shards_are_shown() {
        let mut view = of(sample::status(2), sample::fleet(1));
        let screen = screen(&mut view);
        for said in [
            "1 worker is ready   lag 2.5s   read 120/s",
            "records 300 of 1,000",
            "worker-1                 connected    2       2.5s",
            "worker-2                 alive        1",
            "Shards by lag: 3",
            "shardId-000000000001 worker-1              1.0s       1.0         1         1",
            "shardId-000000005000 worker-2",
            "12s ago  claimed 1 shard: shardId-000000000000",
            "q quit",
        ] {
            assert!(screen.contains(said), "`{said}` is missing in\n{screen}");
        }
    }

    #[test]
    fn trouble_is_shown() {
        let mut status = sample::status(1);
        status.ready = false;
        let input = &mut status.inputs[0];
        (input.leases_valid, input.reason) = (Some(false), Some("they could not be renewed".into()));
        input.pool = Some(Pool { records: sample::usage(1000, 1000, 3), bytes: sample::usage(1, 10, 0) });
        input.shards[0].condition = Some("reading has stalled".into());
        let mut view = of(status, sample::fleet(200));
        view.seen.as_mut().unwrap().workers.push(("orders-1:9100".into(), Err("connection refused".into())));
        let screen = screen(&mut view);
        for said in [
            "1 worker does not answer",
            "records 1,000 of 1,000, 3 wait",
            "worker-1                 expired",
            "they could not be renewed",
            "orders-1:9100            no answer",
            "connection refused",
            "no heartbeat for 3m 20s",
            "reading has stalled",
        ] {
            assert!(screen.contains(said), "`{said}` is missing in\n{screen}");
        }
    }

    #[test]
    fn thousands_of_shards_are_scrolled_filtered_and_sorted_by_keys() {
        let mut view = of(sample::status(2000), Fleet::unread());
        let first = screen(&mut view);
        assert!(first.contains("shardId-000000001999") && !first.contains("shardId-000000000001 "), "{first}");
        press(&mut view, KeyCode::End);
        let last = screen(&mut view);
        assert!(
            last.contains("shardId-000000000000") && last.contains("to 2,000") | last.contains("to 2000"),
            "{last}"
        );
        press(&mut view, KeyCode::Home);
        press(&mut view, KeyCode::Char('/'));
        for letter in "0017q".chars() {
            assert_eq!(press(&mut view, KeyCode::Char(letter)), Next::Stay, "a letter of the filter ends nothing");
        }
        press(&mut view, KeyCode::Backspace);
        press(&mut view, KeyCode::Char('7'));
        press(&mut view, KeyCode::Char('7'));
        press(&mut view, KeyCode::Enter);
        let found = screen(&mut view);
        assert!(found.contains("1 of 2,000") && found.contains("shardId-000000001777"), "{found}");
        press(&mut view, KeyCode::Char('s'));
        assert!(screen(&mut view).contains("Shards by rate"));
        assert_eq!(press(&mut view, KeyCode::Char('q')), Next::End);
    }

    #[test]
    fn lease_table_alone_is_shown() {
        let mut view = View::default();
        assert!(screen(&mut view).contains("asking"));
        view.see(Seen { workers: Vec::new(), fleet: sample::fleet(200) });
        let screen = screen(&mut view);
        for said in [
            "Lease table",
            "2 shards held, 0 free, 1 ended",
            "worker-2                 silent",
            "its lease has expired",
        ] {
            assert!(screen.contains(said), "`{said}` is missing in\n{screen}");
        }
    }
}
