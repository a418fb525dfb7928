//! What does the page show?
//!
//! It is one file that asks for nothing elsewhere. The server writes all numbers, so it works without JavaScript; a short
//! script only fetches it anew. `maud` escapes every text.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use tokio::time::Instant;

use super::chart::{Chart, nice, nice_bytes};
use super::history::{KEPT, Sample};
use super::query::{Query, Sort};
use super::rows::{self, Row, SILENT_SECONDS};
use super::status::{Changed, Condition, Fleet, FleetWorker, Input, PerSecond, Status, UNREAD, Usage};
use super::text::{age, bytes, count, duration, known, rate, some};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// The hash is that of the script.
pub(crate) const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; form-action 'self'; \
    base-uri 'none'; frame-ancestors 'none'; script-src 'sha256-FfYbMVwTOZtsEJAJFiYeeaoYs+DxUO4WnQZsDP0FN7g='";
/// How many shards are shown unless all are asked for.
const SHOWN: usize = 100;
/// How many changes are shown.
const CHANGES_SHOWN: usize = 50;
/// How many conditions are shown; the shards of all are in the table.
const CONDITIONS_SHOWN: usize = 20;
/// How often a browser without JavaScript fetches the page.
const REFRESH_SECONDS: u32 = 10;

/// Renders the page.
pub(crate) fn render(status: &Status, fleet: &Fleet, samples: &[Sample], now: Instant, query: &Query) -> String {
    let headline = Headline::of(status);
    let targets: Vec<_> = status.inputs.iter().map(|input| input.target.as_str()).collect();
    let workers: Vec<_> = status.inputs.iter().map(|input| input.worker.as_str()).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                noscript { meta http-equiv="refresh" content=(REFRESH_SECONDS); }
                link rel="icon" href="data:,";
                title { (headline.text) " · " (targets.join(", ")) " · kinesis-input" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#shards" { "Skip to the shards" }
                div #stale role="alert" hidden {}
                header #who.top {
                    span { b { "kinesis-input" } " reads " b { (targets.join(", ")) } }
                    span { "worker " span.id { (workers.join(", ")) } ", running for " (duration(status.uptime_seconds as u64)) }
                }
                nav aria-label="Sections" { a href="#shards" { "Shards" } a href="#fleet" { "Fleet" } a href="#changes" { "Changes" } }
                main { (content(status, fleet, samples, now, query, &headline)) }
                footer {
                    span #updated { "As of " (time_of_day()) " UTC" }
                    a href="/status" { "status as JSON" }
                    a href="/fleet" { "lease table as JSON" }
                    a href="/metrics" { "metrics" }
                    span { "version " (status.program) }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn content(
    status: &Status,
    fleet: &Fleet,
    samples: &[Sample],
    now: Instant,
    query: &Query,
    headline: &Headline,
) -> Markup {
    let conditions: Vec<_> = status.inputs.iter().flat_map(|input| &input.conditions).collect();
    let mut changes: Vec<_> = status.inputs.iter().flat_map(|input| &input.changes).collect();
    changes.sort_by(|a, b| a.seconds_ago.total_cmp(&b.seconds_ago));
    html! {
        section.state.(headline.class) role="status" {
            span.mark aria-hidden="true" {}
            h1 { (headline.text) }
            p { (headline.detail) }
        }
        (figures(status, fleet))
        @if conditions.len() > 1 { (degraded(&conditions)) }
        h2 { "Memory" small { "records and bytes that were read and are not acknowledged" } }
        div.pair {
            @for pool in status.inputs.iter().filter_map(|input| input.pool.as_ref()) {
                (gauge("Records", &pool.records, count))
                (gauge("Bytes", &pool.bytes, |value| bytes(value as f64)))
            }
        }
        h2 { "Lag and rates" }
        div.pair { @for chart in charts(status, samples, now) { (chart.render()) } }
        (shards(status, fleet, query))
        (workers(status, fleet))
        h2 #changes tabindex="-1" { "What changed lately" }
        @if changes.is_empty() { p.quiet { "Nothing has changed since the input was connected." } }
        ol.changes { @for change in changes.into_iter().take(CHANGES_SHOWN) { (changed(change)) } }
    }
}

/// The state of the run, in a few words and a sentence.
struct Headline {
    class: &'static str,
    text: String,
    detail: String,
}

impl Headline {
    fn of(status: &Status) -> Self {
        let of = |class, text: &str, detail: String| Self { class, text: text.to_owned(), detail };
        let shards: usize = status.inputs.iter().map(|input| input.shards.len()).sum();
        let Some(input) = worst(status) else {
            return of("warn", "Starting", "The pipeline is not running yet.".to_owned());
        };
        let reason = input.reason.clone().unwrap_or_default();
        match input.state.as_str() {
            "connected" if input.leases_valid == Some(false) => {
                of("bad", "The leases have expired", "No shard is read until they can be renewed.".to_owned())
            }
            "degraded" if input.leases_valid == Some(false) => {
                let reason = reason.strip_prefix("the leases have expired: they ").map(|why| format!("They {why}."));
                of("bad", "The leases have expired", reason.or(input.reason.clone()).unwrap_or_default())
            }
            "connected" if input.unread_seconds.is_some_and(|unread| unread >= UNREAD.as_secs_f64()) => {
                let text = match shards {
                    0 => "Nothing is read".to_owned(),
                    _ => format!("Reading {}, and others are not read", some(shards as u64, "shard", "shards")),
                };
                let unread = age(input.unread_seconds.unwrap_or_default());
                of("warn", &text, format!("For {unread} there has been a shard that no worker reads."))
            }
            "connected" if shards == 0 => {
                of("good", "Idle", "There is no shard that this worker should read at the moment.".to_owned())
            }
            "connected" => {
                let lag = input.lag_seconds.unwrap_or_default();
                let detail = if lag < 1.0 {
                    "Everything that was written is read and acknowledged.".to_owned()
                } else {
                    format!("The oldest record that is not acknowledged, or not read, arrived {} ago.", age(lag))
                };
                of("good", &format!("Reading {}", some(shards as u64, "shard", "shards")), detail)
            }
            "degraded" => of("bad", "Degraded", reason),
            "ended" => of("good", "Ended", "Everything that was to be read is read and acknowledged.".to_owned()),
            "failed" => of("bad", "Failed", reason),
            "closed" => of("warn", "Closed", "The input has been closed.".to_owned()),
            _ if reason.is_empty() => of("warn", "Connecting", "Nothing is read yet.".to_owned()),
            _ => of("bad", "Not connected", reason),
        }
    }
}

/// The input that keeps the run from being ready, or else the first.
fn worst(status: &Status) -> Option<&Input> {
    let is_well = |input: &&Input| input.state == "connected" && input.leases_valid != Some(false);
    status.inputs.iter().find(|input| !is_well(input)).or(status.inputs.first())
}

fn figures(status: &Status, fleet: &Fleet) -> Markup {
    let shards = status.inputs.iter().flat_map(|input| &input.shards);
    let in_flight: u64 = shards.clone().map(|shard| shard.in_flight_records).sum();
    let rates = status.inputs.first().map(|input| input.rates).unwrap_or_default();
    let workers = status.inputs.iter().find_map(|input| input.workers);
    let unread = status.inputs.iter().find_map(|input| input.unread_seconds);
    let held = fleet.shards.iter().filter(|shard| shard.state == "held").count();
    html! {
        dl.figures {
            div {
                dt { "Lag" }
                dd {
                    (status.lag_seconds.map_or("–".to_owned(), age))
                    @if let Some(unread) = unread { small.warn { "a shard has not been read for " (age(unread)) } }
                    @else { small { "of the oldest record" } }
                }
            }
            div {
                dt { "Read" }
                dd { (known(rates.read_records, rate)) "/s" small { (known(rates.read_bytes, bytes)) "/s" } }
            }
            div {
                dt { "Acknowledged" }
                dd { (known(rates.acked_records, rate)) "/s" small { "records" } }
            }
            div {
                dt { "In flight" }
                dd { (count(in_flight)) small { "records at the output" } }
            }
            div {
                dt { "Shards" }
                dd { (count(shards.count() as u64)) small { @if fleet.shared { "of " (count(held as u64)) " that are held" } @else { "of this worker" } } }
            }
            div {
                dt { "Workers" }
                dd { (workers.map_or("1".to_owned(), count)) small { @if workers.is_some() { "alive" } @else { "no lease table" } } }
            }
        }
    }
}

fn degraded(conditions: &[&Condition]) -> Markup {
    html! {
        h2 { "What does not work" small { (some(conditions.len() as u64, "part", "parts")) } }
        ul.conditions {
            @for condition in conditions.iter().take(CONDITIONS_SHOWN) {
                li {
                    span.quiet { "for " (age(condition.for_seconds)) }
                    span { (place(condition.stream.as_deref(), condition.shard.as_deref())) (condition.reason) }
                }
            }
        }
        @if conditions.len() > CONDITIONS_SHOWN { p.quiet { "and " (count((conditions.len() - CONDITIONS_SHOWN) as u64)) " more" } }
    }
}

/// The stream and the shard before a sentence about them.
fn place(stream: Option<&str>, shard: Option<&str>) -> Markup {
    html! {
        @if let Some(stream) = stream { span.id { (stream) } " " }
        @if let Some(shard) = shard { span.id { (shard) } " " }
    }
}

fn gauge(title: &str, usage: &Usage, text: fn(u64) -> String) -> Markup {
    let part = |value: u64| 100.0 * (value as f64 / usage.capacity.max(1) as f64).min(1.0);
    let (used, peak) = (part(usage.used), part(usage.peak));
    let is_full = usage.waiting > 0;
    let class = if is_full {
        "full"
    } else if used >= 80.0 {
        "high"
    } else {
        ""
    };
    html! {
        div.gauge {
            div.row { span { (title) } span { b { (text(usage.used)) } span.quiet { " of " (text(usage.capacity)) } } }
            div.bar role="meter" aria-label=(title) aria-valuemin="0" aria-valuemax=(usage.capacity) aria-valuenow=(usage.used.min(usage.capacity))
                aria-valuetext={ (text(usage.used)) " of " (text(usage.capacity)) } {
                div.fill.(class) style={ "width:" (format!("{used:.1}")) "%" } {}
                div.peak style={ "left:" (format!("{:.1}", peak.min(99.7))) "%" } {}
            }
            @if is_full { p.bad { (some(usage.waiting, "reservation waits", "reservations wait")) " for space; the output acknowledges too slowly" } }
            @else { p { "nothing waits; the peak was " (text(usage.peak)) } }
        }
    }
}

fn charts<'a>(status: &Status, samples: &[Sample], now: Instant) -> Vec<Chart<'a>> {
    let of = |value: fn(&Sample) -> Option<f64>| {
        let points = samples.iter().map(|sample| {
            let age = now.saturating_duration_since(sample.at).as_secs_f64();
            (age, value(sample))
        });
        points.collect::<Vec<_>>()
    };
    let rates = status.inputs.first().map(|input| input.rates).unwrap_or_default();
    let oldest = samples.first().map_or(0.0, |sample| now.saturating_duration_since(sample.at).as_secs_f64());
    // A run that began a moment ago would be a dot at the edge of half an hour.
    let spans = [5.0 * 60.0, 10.0 * 60.0, KEPT.as_secs_f64()];
    let span = spans.into_iter().find(|span| oldest <= *span).unwrap_or(KEPT.as_secs_f64());
    let per_second = |value: f64| format!("{}/s", rate(value));
    let bytes_per_second = |value: f64| format!("{}/s", bytes(value));
    vec![
        Chart {
            title: "Lag",
            now: status.lag_seconds.map_or("–".to_owned(), age),
            class: "lag",
            samples: of(|sample| sample.lag),
            value: age,
            round: nice,
            span,
        },
        Chart {
            title: "Bytes read",
            now: known(rates.read_bytes, bytes_per_second),
            class: "read",
            samples: of(|sample| sample.rates.read_bytes),
            value: bytes_per_second,
            round: nice_bytes,
            span,
        },
        Chart {
            title: "Records acknowledged",
            now: known(rates.acked_records, per_second),
            class: "acked",
            samples: of(|sample| sample.rates.acked_records),
            value: per_second,
            round: nice,
            span,
        },
    ]
}

fn shards(status: &Status, fleet: &Fleet, query: &Query) -> Markup {
    let mut rows = rows::of(&status.inputs, fleet);
    let total = rows.len();
    rows::arrange(&mut rows, &query.filter, query.sort);
    let found = rows.len();
    if !query.all {
        rows.truncate(SHOWN);
    }
    let one_stream = rows.iter().all(|row| Some(row.stream) == rows.first().map(|row| row.stream));
    html! {
        h2 #shards tabindex="-1" {
            "Shards"
            small {
                @if found < total { (count(found as u64)) " of " }
                (count(total as u64))
                @if rows.len() < found { ", the first " (count(rows.len() as u64)) " are shown" }
            }
        }
        form.tools method="get" action="/" role="search" {
            label for="filter" { "Filter" }
            input #filter name="filter" type="search" value=(query.filter) placeholder="shard, worker, error" autocomplete="off";
            @if query.sort != Sort::default() { input type="hidden" name="sort" value=(query.sort.name()); }
            button type="submit" { "Show" }
            @if !query.filter.is_empty() { a href=(Query { filter: String::new(), ..query.clone() }.link()) { "clear" } }
            @if rows.len() < found { a #all href=(query.all().link()) { "show all " (count(found as u64)) } }
        }
        @if rows.is_empty() {
            p.quiet { @if total == 0 { "No shard is known yet." } @else { "No shard matches." } }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Shards" {
                table {
                    thead {
                        tr {
                            (column("Shard", Some(Sort::Shard), query, ""))
                            @if !one_stream { th scope="col" { "Stream" } }
                            (column("Owner", None, query, ""))
                            (column("Lag", Some(Sort::Lag), query, "number"))
                            (column("Read/s", Some(Sort::Rate), query, "number"))
                            (column("In flight", Some(Sort::InFlight), query, "number"))
                            (column("Unacked", None, query, "number"))
                            (column("Acked through", None, query, ""))
                            (column("What is wrong, and the last error", None, query, "wide"))
                        }
                    }
                    tbody { @for row in &rows { (shard(row, one_stream)) } }
                }
            }
        }
    }
}

fn column(title: &str, by: Option<Sort>, query: &Query, class: &str) -> Markup {
    let is_current = by == Some(query.sort);
    let direction = if query.sort == Sort::Shard { "ascending" } else { "descending" };
    let arrow = if query.sort == Sort::Shard { " ↑" } else { " ↓" };
    html! {
        th scope="col" class=(class) aria-sort=[is_current.then_some(direction)] {
            @match by {
                Some(by) => {
                    a id={ "sort-" (by.name()) } href=(query.sorted(by).link()) aria-current=[is_current.then_some("true")] {
                        (title) @if is_current { span aria-hidden="true" { (arrow) } }
                    }
                }
                None => { (title) }
            }
        }
    }
}

fn shard(row: &Row<'_>, one_stream: bool) -> Markup {
    let none = "–".to_owned();
    let position = row.position();
    let rates = row.own.map_or(PerSecond::default(), |own| own.rates);
    html! {
        tr.other[row.own.is_none()] {
            th.id scope="row" { (row.shard) }
            @if !one_stream { td.id { (row.stream) } }
            td.id {
                @match (row.owner, row.own) {
                    (Some(_), Some(own)) if own.state == "draining" => { "this worker, draining" },
                    (Some(_), Some(_)) => { "this worker" },
                    (Some(owner), None) => { (owner) },
                    (None, _) => { "nobody" },
                }
            }
            td.number { (row.own.map_or(none.clone(), |own| age(own.lag_seconds))) }
            td.number { (known(rates.read_records, rate)) }
            td.number { (row.own.map_or(none.clone(), |own| count(own.in_flight_records))) }
            td.number { (row.own.map_or(none.clone(), |own| count(own.pending_records))) }
            td.position.id title=[position] { bdi { (position.unwrap_or("–")) } }
            td.wide {
                @if let Some((class, trouble)) = row.trouble() { span class=(class) { (trouble) } " " }
                @if let Some(requester) = row.leased.and_then(|leased| leased.requester.as_deref()) { "asked for by " span.id { (requester) } " " }
                @if let Some((error, ago)) = row.own.and_then(|own| own.last_error.as_deref().zip(own.last_error_seconds_ago)) {
                    span.quiet { (error) ", " (age(ago)) " ago" }
                }
            }
        }
    }
}

fn workers(status: &Status, fleet: &Fleet) -> Markup {
    let own: HashSet<_> = status.inputs.iter().map(|input| input.worker.as_str()).collect();
    let number = |state: &str| fleet.shards.iter().filter(|shard| shard.state == state).count() as u64;
    let others: HashSet<_> =
        fleet.shards.iter().filter(|shard| shard.other_program).filter_map(|shard| shard.owner.as_deref()).collect();
    html! {
        h2 #fleet tabindex="-1" {
            "Fleet"
            small {
                @match fleet.read_seconds_ago {
                    Some(ago) if fleet.shared => { "as the lease table said " (age(ago)) " ago" }
                    Some(_) => { "this worker shares no lease table" }
                    None => { "the lease table has not been read yet" }
                }
            }
        }
        @if let Some(error) = &fleet.error { p { span.bad { "The lease table can't be read: " } (error) } }
        @if fleet.shared {
            p.quiet {
                (some(number("held"), "shard is held", "shards are held")) ", " (count(number("free"))) " free, " (count(number("ended"))) " ended"
                @if number("unreadable") > 0 { ", " (count(number("unreadable"))) " unreadable" }
            }
            div.scroll tabindex="0" role="region" aria-label="Workers" {
                table {
                    thead { tr {
                        th scope="col" { "Worker" } th.number scope="col" { "Shards" } th.number scope="col" { "Running for" }
                        th.number scope="col" { "Last heartbeat" } th.wide scope="col" { "Reads" }
                    } }
                    tbody {
                        @for one in &fleet.workers { (worker(one, own.contains(one.worker.as_str()))) }
                        @for other in others { tr.other { th.id scope="row" { (other) } td.number { "–" } td.number { "–" } td.number { "–" } td.wide { "another program" } } }
                    }
                }
            }
        }
    }
}

fn worker(worker: &FleetWorker, is_own: bool) -> Markup {
    let ago =
        |seconds: Option<i64>| seconds.map_or("–".to_owned(), |seconds| duration(seconds.max(0).unsigned_abs()));
    let is_silent = worker.seen_seconds_ago.is_some_and(|ago| ago >= SILENT_SECONDS);
    html! {
        tr {
            th.id scope="row" { (worker.worker) @if is_own { " (this worker)" } }
            td.number { (count(worker.shards)) }
            td.number { (ago(worker.runs_seconds)) }
            td.number { @if is_silent { span.bad { (ago(worker.seen_seconds_ago)) " ago" } } @else { (ago(worker.seen_seconds_ago)) " ago" } }
            td.wide { @if worker.explicit { "shards by name" } @else { "its share" } }
        }
    }
}

fn changed(change: &Changed) -> Markup {
    let (tone, what) = rows::change(change);
    html! {
        li {
            span.quiet { (age(change.seconds_ago)) " ago" }
            span {
                span class=(tone) { (what) }
                @if let Some(beside) = rows::beside(change) { " " (beside) }
                @if change.shard.is_some() {
                    ": " (place(change.stream.as_deref(), change.shard.as_deref()))
                    @if change.count > 1 { "and " (count(change.count - 1)) " before it" }
                }
            }
        }
    }
}

fn time_of_day() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    format!("{:02}:{:02}:{:02}", now / 3600 % 24, now / 60 % 60, now % 60)
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
