//! What do all workers do at the moment, on a terminal?
//!
//! - `source`: asks workers, or the lease table; `view`: draws what they said, and keeps what the user chose.

mod source;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::Exit;
use crate::table::AccessArguments;
use source::{HttpWorker, Source};
use view::{Next, View};

/// How often the workers are asked.
const ASKED_EVERY: Duration = Duration::from_secs(2);
/// How often the lease table is read. A read of the whole table costs capacity.
const TABLE_READ_EVERY: Duration = Duration::from_secs(30);
/// How long the terminal is listened to before the thread looks whether its receiver is gone.
const LISTENS: Duration = Duration::from_millis(200);
/// How many keys may wait.
const KEYS: usize = 64;

/// The arguments of `kinesis-input top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Workers to ask: the addresses that `run --http` serves.
    #[arg(long, value_name = "URL", num_args = 1.., value_parser = HttpWorker::parse, required_unless_present = "table")]
    http: Vec<HttpWorker>,
    /// In place of workers, a lease table: `dynamodb.table` of the pipelines.
    #[arg(long, value_name = "NAME", conflicts_with = "http")]
    table: Option<String>,
    #[command(flatten)]
    access: AccessArguments,
}

/// Shows the workers until the user has seen enough.
pub(crate) async fn top(arguments: &Top) -> Result<(), (Exit, String)> {
    if !io::stdout().is_terminal() {
        let message = "`top` needs a terminal; for programs there are `/status` of each worker and `leases --json`";
        return Err((Exit::Usage, message.to_owned()));
    }
    let (source, every) = match &arguments.table {
        Some(table) => (Source::table(&arguments.access.at(table)).await?, TABLE_READ_EVERY),
        None => (Source::workers(arguments.http.clone()), ASKED_EVERY),
    };
    let mut terminal =
        ratatui::try_init().map_err(|error| (Exit::Failed, format!("the terminal can't be used: {error}")))?;
    let shown = show(&mut terminal, &source, every).await;
    ratatui::restore();
    shown.map_err(|error| (Exit::Failed, format!("the terminal can't be used: {error}")))
}

async fn show(terminal: &mut ratatui::DefaultTerminal, source: &Source, every: Duration) -> io::Result<()> {
    let mut keys = listen();
    let mut view = View::default();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        // A worker that does not answer must not keep the keys waiting.
        let asked = async {
            ticks.tick().await;
            source.ask().await
        };
        let mut asked = std::pin::pin!(asked);
        loop {
            tokio::select! {
                seen = &mut asked => {
                    view.see(seen);
                    break;
                }
                event = keys.recv() => match event {
                    None => return Ok(()),
                    Some(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                        if view.press(key) == Next::End {
                            return Ok(());
                        }
                        terminal.draw(|frame| view.draw(frame))?;
                    }
                    Some(_) => { terminal.draw(|frame| view.draw(frame))?; }
                },
            }
        }
    }
}

/// Listens to the terminal on a thread, which ends when the receiver is dropped.
fn listen() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let Ok(heard) = event::poll(LISTENS) else { return };
            if !heard {
                continue;
            }
            let Ok(event) = event::read() else { return };
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
