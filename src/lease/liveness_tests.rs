//! Is a worker alive as long as its heartbeats change, by our clock alone?

use super::*;
use crate::lease::Presence;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

fn stream() -> Stream {
    Stream::new("orders", "arn:orders")
}

fn worker(id: &str, heartbeat: u64) -> Worker {
    Worker { id: id.into(), heartbeat: heartbeat.to_string(), presence: Presence::default() }
}

fn hold(worker: &str, epoch: Option<u64>, stamp: &str) -> Hold {
    Hold { worker: worker.into(), epoch, stamp: stamp.into() }
}

fn row(hold: &Hold) -> Row {
    Row { hold: Some(hold.clone()), ..Row::new("s", None) }
}

fn observe(liveness: &mut Liveness, now: Instant, workers: &[Worker], rows: &[Row]) {
    liveness.observe(now, workers, [(&stream(), rows)]);
}

#[test]
fn worker_is_alive_as_long_as_its_heartbeat_changes() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    let held = hold("a", Some(1), "x");
    for second in [0, 10, 20, 30, 40] {
        observe(&mut liveness, start + second * SECOND, &[worker("a", u64::from(second))], &[row(&held)]);
    }
    let last = start + 40 * SECOND;
    assert!(!liveness.is_expired(&stream(), &"s".into(), &held, last + 29 * SECOND));
    observe(&mut liveness, last + 29 * SECOND, &[worker("a", 40)], &[row(&held)]);
    assert!(liveness.is_expired(&stream(), &"s".into(), &held, last + LEASE));
}

#[test]
fn leases_of_the_first_read_are_given_a_whole_lease_period() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    // The time in its stamp does not matter.
    let held = hold("a", Some(1), "1970-01-01T00:00:00Z");
    observe(&mut liveness, start, &[worker("a", 1)], &[row(&held)]);
    assert!(!liveness.is_expired(&stream(), &"s".into(), &held, start + 29 * SECOND));
    assert!(!liveness.is_proven(&stream(), &"s".into(), &held, start));
    assert!(liveness.is_expired(&stream(), &"s".into(), &held, start + LEASE));
}

#[test]
fn holder_that_sends_heartbeats_is_proven() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    let held = hold("a", Some(1), "x");
    observe(&mut liveness, start, &[worker("a", 1)], &[row(&held)]);
    observe(&mut liveness, start + SECOND, &[worker("a", 2)], &[row(&held)]);
    assert!(liveness.is_proven(&stream(), &"s".into(), &held, start + SECOND));
}

#[test]
fn leases_of_other_programs_are_judged_by_themselves() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    observe(&mut liveness, start, &[], &[row(&hold("theirs", None, "1"))]);
    let renewed = hold("theirs", None, "2");
    observe(&mut liveness, start + 20 * SECOND, &[], &[row(&renewed)]);
    assert!(liveness.is_proven(&stream(), &"s".into(), &renewed, start + 20 * SECOND));
    // Other programs wait that long before they take a lease from each other or from this input.
    assert!(!liveness.is_expired(&stream(), &"s".into(), &renewed, start + 109 * SECOND));
    assert!(liveness.is_expired(&stream(), &"s".into(), &renewed, start + 110 * SECOND));
}

#[test]
fn unrenewed_row_expires_though_a_worker_of_its_name_is_alive() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    let held = hold("a", Some(1), "x");
    for second in 0..90 {
        observe(&mut liveness, start + second * SECOND, &[worker("a", u64::from(second))], &[row(&held)]);
        assert!(!liveness.is_expired(&stream(), &"s".into(), &held, start + second * SECOND));
    }
    observe(&mut liveness, start + 90 * SECOND, &[worker("a", 90)], &[row(&held)]);
    assert!(liveness.is_expired(&stream(), &"s".into(), &held, start + 90 * SECOND));
    // A renewal makes the lease valid again.
    let renewed = hold("a", Some(1), "y");
    observe(&mut liveness, start + 91 * SECOND, &[worker("a", 91)], &[row(&renewed)]);
    assert!(!liveness.is_expired(&stream(), &"s".into(), &renewed, start + 91 * SECOND));
}

#[test]
fn worker_is_judged_by_its_own_lease_period() {
    for (lease, silent) in [(60, 59), (10, 9)] {
        let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
        let held = hold("a", Some(1), "x");
        let mut shown = worker("a", 1);
        shown.presence.lease = Some(Duration::from_secs(lease));
        observe(&mut liveness, start, &[shown.clone()], &[row(&held)]);
        let last = start + silent * SECOND;
        observe(&mut liveness, last, &[shown], &[row(&held)]);
        assert!(!liveness.is_expired(&stream(), &"s".into(), &held, last) && liveness.is_alive(&"a".into(), last));
        assert_eq!(liveness.next_expiry(last), Some(last + SECOND));
        assert!(liveness.is_expired(&stream(), &"s".into(), &held, last + SECOND));
        assert!(!liveness.is_alive(&"a".into(), last + SECOND));
    }
}

#[test]
fn removed_worker_is_alive_for_a_lease_period_after_its_last_sign() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    let held = hold("a", Some(1), "x");
    observe(&mut liveness, start, &[worker("a", 1)], &[row(&held)]);
    observe(&mut liveness, start + 20 * SECOND, &[worker("a", 2)], &[row(&held)]);
    observe(&mut liveness, start + 25 * SECOND, &[], &[row(&held)]);
    assert!(!liveness.is_expired(&stream(), &"s".into(), &held, start + 49 * SECOND));
    assert!(liveness.is_expired(&stream(), &"s".into(), &held, start + 50 * SECOND));
    // The worker has a row again.
    observe(&mut liveness, start + 51 * SECOND, &[worker("a", 2)], &[row(&held)]);
    assert!(!liveness.is_expired(&stream(), &"s".into(), &held, start + 51 * SECOND));
}

#[test]
fn worker_that_renews_a_row_is_alive_without_heartbeats() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    observe(&mut liveness, start, &[], &[row(&hold("a", Some(1), "x"))]);
    let renewed = hold("a", Some(1), "y");
    observe(&mut liveness, start + 20 * SECOND, &[], &[row(&renewed)]);
    assert!(liveness.is_alive(&"a".into(), start + 49 * SECOND));
    assert!(!liveness.is_alive(&"a".into(), start + 50 * SECOND));
}

#[test]
fn handed_over_lease_proves_nothing_of_its_new_owner() {
    let start = Instant::now();
    let mut liveness = Liveness::new(LEASE);
    observe(&mut liveness, start, &[worker("a", 1)], &[row(&hold("a", Some(1), "1"))]);
    // The new owner was not seen before and has no row.
    let passed = hold("b", Some(2), "2");
    observe(&mut liveness, start + SECOND, &[worker("a", 2)], &[row(&passed)]);
    let shard = row(&passed).shard;
    let later = start + SECOND * 2;
    assert!(!liveness.is_expired(&stream(), &shard, &passed, later), "it may be on its way");
    assert!(!liveness.is_proven(&stream(), &shard, &passed, later));
    assert!(liveness.is_expired(&stream(), &shard, &passed, start + SECOND + LEASE));
}

#[test]
fn worker_with_heartbeats_is_not_alive_by_its_rows() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    observe(&mut liveness, start, &[worker("a", 1)], &[row(&hold("a", Some(1), "x"))]);
    observe(&mut liveness, start + 20 * SECOND, &[worker("a", 1)], &[row(&hold("a", Some(1), "y"))]);
    assert!(!liveness.is_alive(&"a".into(), start + LEASE));
}

#[test]
fn next_expiry_includes_rows_of_other_programs() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    let rows = [row(&hold("theirs", None, "1"))];
    observe(&mut liveness, start, &[], &rows);
    assert_eq!(liveness.next_expiry(start), None);
    observe(&mut liveness, start + SECOND, &[], &rows);
    assert_eq!(liveness.next_expiry(start + SECOND), Some(start + 90 * SECOND));
}

#[test]
fn worker_seen_for_the_first_time_is_an_arrival() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    let came = |liveness: &Liveness, second: u32| liveness.someone_came(10 * SECOND, start + second * SECOND);
    assert!(!came(&liveness, 0));
    observe(&mut liveness, start, &[], &[]);
    assert!(came(&liveness, 9) && !came(&liveness, 10));
    observe(&mut liveness, start + 20 * SECOND, &[worker("a", 1)], &[]);
    assert!(came(&liveness, 29) && !came(&liveness, 30));
    observe(&mut liveness, start + 25 * SECOND, &[worker("a", 2)], &[]);
    assert!(!came(&liveness, 30));
}

#[test]
fn next_expiry_includes_leases_of_silent_workers() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    let rows = [row(&hold("a", Some(1), "x"))];
    observe(&mut liveness, start, &[worker("a", 1)], &rows);
    assert_eq!(liveness.next_expiry(start), None);
    observe(&mut liveness, start + 27 * SECOND, &[worker("a", 1)], &rows);
    assert_eq!(liveness.next_expiry(start + 27 * SECOND), Some(start + LEASE));
    observe(&mut liveness, start + 30 * SECOND, &[worker("a", 1)], &rows);
    assert_eq!(liveness.next_expiry(start + LEASE), None);
}

#[test]
fn new_worker_is_alive_and_one_silent_for_long_is_removed() {
    let (mut liveness, start) = (Liveness::new(LEASE), Instant::now());
    observe(&mut liveness, start, &[], &[]);
    observe(&mut liveness, start + SECOND, &[worker("b", 1)], &[]);
    let b: WorkerId = "b".into();
    assert!(liveness.is_alive(&b, start + SECOND));
    assert!(!liveness.is_alive(&b, start + 31 * SECOND));
    let workers = [worker("b", 1)];
    assert!(liveness.long_dead(&workers, start + 300 * SECOND).is_empty());
    assert_eq!(liveness.long_dead(&workers, start + 301 * SECOND).len(), 1);
}
