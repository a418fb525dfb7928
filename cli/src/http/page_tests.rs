use sha2::{Digest, Sha256};

use super::*;
use crate::http::sample;
use crate::http::status::Pool;

fn shown(status: &Status, fleet: &Fleet, query: &str) -> String {
    render(status, fleet, &[], Instant::now(), &Query::parse(query))
}

/// The text of the page, without its markup, script and style.
fn words(page: &str) -> String {
    let body = page.split("<main>").nth(1).unwrap().split("</main>").next().unwrap();
    let mut words = String::new();
    for part in body.split('<') {
        words += part.split_once('>').map_or(part, |(_, text)| text);
        words.push(' ');
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn page_says_state_pool_shards_and_fleet() {
    let page = words(&shown(&sample::status(2), &sample::fleet(1), ""));
    for said in [
        "Reading 2 shards",
        "Records 300 of 1,000",
        "Bytes 1.00 MiB of 64.00 MiB",
        "nothing waits",
        "shardId-000000000001 this worker 1.0s 1.0 1 1",
        "shardId-000000005000 worker-2 – – – – 7",
        "worker-1 (this worker) 1 1h 1m 1s ago its share",
        "2 shards are held, 0 free, 1 ended",
        "12s ago claimed 1 shard : orders shardId-000000000000",
    ] {
        assert!(page.contains(said), "`{said}` is missing in {page}");
    }
    assert!(!page.contains("shardId-000000005001"), "a shard that was read to its end");
}

#[test]
fn page_shows_each_trouble() {
    let mut status = sample::status(1);
    let input = &mut status.inputs[0];
    (input.state, input.reason) = ("degraded".into(), Some("orders a: AccessDeniedException".into()));
    input.conditions = vec![sample::condition("AccessDeniedException"), sample::condition("the disk is full")];
    input.pool = Some(Pool { records: sample::usage(1000, 1000, 3), bytes: sample::usage(1, 10, 0) });
    input.shards[0].condition = Some("reading has stalled".into());
    input.shards[0].last_error = Some("the connection broke".into());
    input.shards[0].last_error_seconds_ago = Some(75.0);
    input.changes = vec![sample::change("lost", Some("worker-2"))];
    let page = words(&shown(&status, &sample::fleet(200), ""));
    for said in [
        "Degraded orders a: AccessDeniedException",
        "What does not work 2 parts",
        "for 1m 30s orders shardId-000000000000 the disk is full",
        "3 reservations wait for space",
        "reading has stalled the connection broke, 1m 15s ago",
        "its lease has expired: no heartbeat for 3m 20s",
        "lost 1 shard to worker-2: orders shardId-000000000000",
    ] {
        assert!(page.contains(said), "`{said}` is missing in {page}");
    }
    status.inputs[0].shards[0].position = None;
    let stored = words(&shown(&status, &sample::fleet(200), ""));
    assert!(stored.contains("shardId-000000000000 this worker 0s 0 1 1 7 reading"), "what is stored: {stored}");
    status.inputs[0].leases_valid = Some(false);
    assert!(words(&shown(&status, &Fleet::unread(), "")).starts_with("The leases have expired"));
    status.inputs[0] = sample::input(0);
    status.inputs[0].unread_seconds = Some(266.0);
    assert!(
        words(&shown(&status, &Fleet::unread(), "")).starts_with("Nothing is read For 4m 26s there has been a shard")
    );
    status.inputs[0].unread_seconds = Some(3.0);
    assert!(words(&shown(&status, &Fleet::unread(), "")).starts_with("Idle"));
    (status.inputs[0].state, status.inputs[0].reason) = ("disconnected".into(), Some("there is no such stream".into()));
    assert!(words(&shown(&status, &Fleet::unread(), "")).starts_with("Not connected there is no such stream"));
    status.inputs.clear();
    assert!(words(&shown(&status, &Fleet::unread(), "")).starts_with("Starting"));
}

#[test]
fn page_escapes_every_text() {
    const HOSTILE: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>";
    let hostile = || Some(HOSTILE.to_owned());
    let mut status = sample::status(1);
    let input = &mut status.inputs[0];
    (input.state, input.reason) = ("degraded".into(), hostile());
    (input.target, input.worker) = (HOSTILE.into(), HOSTILE.into());
    input.conditions = vec![sample::condition(HOSTILE), sample::condition(HOSTILE)];
    input.changes = vec![sample::change(HOSTILE, Some(HOSTILE))];
    let shard = &mut input.shards[0];
    (shard.stream, shard.shard, shard.state) = (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
    (shard.position, shard.condition, shard.last_error) = (hostile(), hostile(), hostile());
    shard.last_error_seconds_ago = Some(1.0);
    let mut fleet = sample::fleet(1);
    fleet.error = hostile();
    fleet.workers[0].worker = HOSTILE.into();
    let row = &mut fleet.shards[1];
    (row.stream, row.shard, row.owner) = (HOSTILE.into(), format!("2{HOSTILE}"), hostile());
    (row.requester, row.position, row.remark) = (hostile(), hostile(), hostile());
    for query in ["", &format!("filter={}", form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect::<String>())] {
        let page = shown(&status, &fleet, query);
        assert_eq!(page.matches("<script").count(), 1, "only the page's own");
        assert!(!page.contains("<img") && page.contains("&lt;img src=x"), "{page}");
        assert!(!page.contains("\"'>"), "no text ends its attribute");
    }
}

#[test]
fn thousands_of_shards_are_shown_by_lag_and_found_by_a_filter() {
    let status = sample::status(2000);
    let count = |page: &str| page.matches("<th class=\"id\" scope=\"row\">shardId-").count();
    let page = shown(&status, &Fleet::unread(), "");
    assert_eq!(count(&page), SHOWN);
    let first = page.split("<tbody>").nth(1).unwrap();
    assert!(
        first.contains("shardId-000000001999") && !first.contains("shardId-000000000001"),
        "the greatest lag first"
    );
    assert_eq!(count(&shown(&status, &Fleet::unread(), "all=1")), 2000);
    let found = shown(&status, &Fleet::unread(), "filter=shardId-0000000017&sort=shard");
    assert_eq!(count(&found), 100);
    let words = words(&found);
    assert!(words.contains("100 of 2,000") && words.contains("shardId-000000001700"));
}

#[test]
fn page_asks_for_nothing_elsewhere_and_runs_only_its_own_script() {
    let page = shown(&sample::status(3), &sample::fleet(1), "");
    for elsewhere in ["http:", "https:", "src=", "@import", "url(", "//"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    let hash = base64_simd::STANDARD.encode_to_string(Sha256::digest(SCRIPT));
    assert!(POLICY.ends_with(&format!("script-src 'sha256-{hash}'")), "{hash}");
    assert!(page.contains(SCRIPT), "as it was hashed");
}

/// What a screen reader and a keyboard need: a language, one heading of the first level, labels, and headers of columns and
/// rows.
#[test]
fn page_is_labeled() {
    let page = shown(&sample::status(3), &sample::fleet(1), "");
    assert!(page.contains("<html lang=\"en\">"));
    assert_eq!(page.matches("<h1").count(), 1);
    assert!(page.contains("<label for=\"filter\">") && page.contains("id=\"filter\""));
    for cell in page.split("<th").skip(1).filter(|cell| !cell.starts_with("ead")) {
        assert!(cell.split('>').next().unwrap().contains("scope="), "{cell}");
    }
    for image in page.split("<svg").skip(1) {
        assert!(image.split('>').next().unwrap().contains("role=\"img\" aria-label="), "{image}");
    }
    assert_eq!(page.matches("role=\"meter\"").count(), page.matches("aria-valuetext=").count());
}
