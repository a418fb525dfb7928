//! The suite passes an input that keeps every rule, and detects every input that breaks one.

mod reference;

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use reference::{Flaw, Shelves};

fn options() -> Options {
    Options { patience: Duration::from_secs(5), ..Options::default() }
}

#[tokio::test(start_paused = true)]
async fn correct_input_passes_every_check() {
    for lanes in [1, 3] {
        let report = run(&Shelves::new(lanes, None), &options()).await;
        assert_eq!(report.passed().len(), Check::ALL.len(), "{:?} {:?}", report.failed(), report.skipped());
        report.unwrap();
    }
}

#[tokio::test]
async fn correct_input_passes_on_real_time() {
    let options = Options { silence: Duration::from_millis(5), ..options() };
    run(&Shelves::new(2, None), &options).await.unwrap();
}

/// The check that has to detect each flaw, and the rule that it names.
const CAUGHT: &[(Flaw, Check, Rule)] = &[
    (Flaw::StartsOverOnConnect, Check::OpenAndClose, Rule::ConnectIsIdempotent),
    (Flaw::ClosesOnce, Check::OpenAndClose, Rule::ClosesAtAnyTime),
    (Flaw::AlwaysConnected, Check::OpenAndClose, Rule::StatusIsTrue),
    (Flaw::ConnectFails, Check::OpenAndClose, Rule::Opens),
    (Flaw::ClosesOnlyOpen, Check::CloseBeforeConnect, Rule::CloseWithinDeadline),
    (Flaw::ReadsUnconnected, Check::ReadBeforeConnect, Rule::ReadNeedsConnect),
    (Flaw::ReadsClosed, Check::ReadAfterClose, Rule::ClosedMeansClosed),
    (Flaw::TooManyMessages, Check::Demands, Rule::WithinDemand),
    (Flaw::TooPatient, Check::Idle, Rule::WithinMaxWait),
    (Flaw::ErrorWhenIdle, Check::Idle, Rule::EmptyIsAnAnswer),
    (Flaw::SleepsThrough, Check::Idle, Rule::EveryCallReturns),
    (Flaw::NewestFirst, Check::Sequential, Rule::LanesInOrder),
    (Flaw::Stutters, Check::Sequential, Rule::NothingTwice),
    (Flaw::Skips, Check::Sequential, Rule::NothingLost),
    (Flaw::Garbles, Check::Sequential, Rule::PayloadsIntact),
    (Flaw::SeesOldOnly, Check::Growing, Rule::NothingLost),
    (Flaw::RacesWithItself, Check::Parallel, Rule::NothingTwice),
    (Flaw::TakesBeforeWaiting, Check::CancelledReads, Rule::NothingLost),
    (Flaw::ReconnectFails, Check::Reconnect, Rule::Reconnects),
    (Flaw::ReconnectStartsOver, Check::Reconnect, Rule::NothingTwice),
    (Flaw::EndsEarly, Check::EndOfInput, Rule::EndsOnceSettled),
    (Flaw::NeverEnds, Check::EndOfInput, Rule::EndsOnceSettled),
    (Flaw::StoresNewest, Check::RestartWithGap, Rule::UnackedComesAgain),
    (Flaw::NeedsOrderedAcks, Check::OutOfOrderAcks, Rule::AckedIsDone),
    (Flaw::IgnoresNacks, Check::Nacks, Rule::NackedComesFirst),
    (Flaw::AcksWhatHasAReason, Check::Nacks, Rule::NackedComesFirst),
    (Flaw::NackedLast, Check::Nacks, Rule::NackedComesFirst),
    (Flaw::IgnoresNacks, Check::PartialNacks, Rule::NackedComesFirst),
    (Flaw::AcksWhatHasAReason, Check::PartialNacks, Rule::NackedComesFirst),
    (Flaw::NackedLast, Check::PartialNacks, Rule::NackedComesFirst),
    (Flaw::DroppedIsAcked, Check::DroppedReceipts, Rule::DroppedIsNacked),
    (Flaw::AnyCount, Check::WrongCount, Rule::WrongCountIsRefused),
    (Flaw::CloseHurries, Check::CloseWaits, Rule::CloseWaits),
    (Flaw::CloseHurries, Check::CloseDeadline, Rule::CloseWaits),
    (Flaw::CloseLingers, Check::CloseDeadline, Rule::CloseWithinDeadline),
    (Flaw::LateAcksCount, Check::LateAcks, Rule::LateAckIsHarmless),
    (Flaw::ForgetsProgress, Check::Restart, Rule::AckedIsDone),
    (Flaw::StoresDelivered, Check::CloseDeadline, Rule::UnackedComesAgain),
    (Flaw::StoresDelivered, Check::Crash, Rule::UnackedComesAgain),
];

#[tokio::test(start_paused = true)]
async fn every_flaw_is_caught_by_its_check_and_named_by_its_rule() {
    let mut wrong = Vec::new();
    for &(flaw, check, rule) in CAUGHT {
        match run_one(&Shelves::new(2, Some(flaw)), &options(), check).await {
            Err(failure) if failure.rule == rule => {}
            result => wrong.push(format!("{flaw:?} in {check}, instead of {rule:?}: {result:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_check_is_known_to_catch_something() {
    let proven: BTreeSet<_> = CAUGHT.iter().map(|(_, check, _)| *check).collect();
    assert_eq!(proven, BTreeSet::from(Check::ALL));
}

#[tokio::test(start_paused = true)]
async fn unsupported_and_skipped_checks_are_reported_with_their_reason() {
    let options = options().skip(Check::Crash, "leases outlive a crash");
    let report = run(&Shelves::new(1, None).limited(), &options).await;
    let skipped = [
        (Check::Reconnect, "it has no connection"),
        (Check::EndOfInput, "it has no end"),
        (Check::Crash, "leases outlive a crash"),
    ];
    assert_eq!(report.skipped(), skipped);
    assert_eq!(report.passed().len(), Check::ALL.len() - 3);
}

#[tokio::test(start_paused = true)]
async fn failure_names_its_check_and_its_rule() {
    let report = run(&Shelves::new(1, Some(Flaw::IgnoresNacks)), &options()).await;
    let text = report.into_result().unwrap_err().to_string();
    assert!(text.contains("\n  nacks: a nacked message comes again before anything newer of its lane: "), "{text}");
}
