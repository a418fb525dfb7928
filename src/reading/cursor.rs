//! Where in its shard is a reader, and is the shard still there?
//!
//! This is the same however a shard is read.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::listing::{CONFIRMED_AFTER, ShardPresence, StreamIdentity, StreamListing};
use super::{ReadError, ReadEvent, ShardToRead, Step};
use crate::model::{ChildShard, SequenceNumber, ShardNames, StartPosition};
use crate::pool::Permit;
use crate::records::Rows;
use crate::retry::backoff::Backoff;
use crate::retry::{self, Fault};
use crate::telemetry::health::Health;

/// The first delay before the next try.
const FIRST_DELAY: Duration = Duration::from_millis(300);
/// A deleted stream may be recreated, which takes some minutes. The input gives up after this time.
const STREAM_GONE_AFTER: Duration = Duration::from_mins(5);

/// The result of a search for a consumer, shard or stream that was not found.
#[derive(Debug)]
pub(super) enum Search {
    /// Everything exists, or the service did not say.
    There,
    /// Something may still appear; the text says why it is missing now.
    NotYet(String),
    /// The shard is past retention. These are its children, as far as they are listed.
    Over(Vec<ChildShard>),
}

/// The position of a reader, and what it knows of its shard.
#[derive(Debug)]
pub(super) struct ShardCursor {
    pub(super) shard: ShardToRead,
    pub(super) listing: Arc<StreamListing>,
    pub(super) health: Arc<Health>,
    /// The position at which the next subscription or iterator starts.
    pub(super) start: StartPosition,
    backoff: Backoff,
    slow_backoff: Backoff,
    /// When the first listing that does not show the shard was requested.
    missing_since: Option<Instant>,
    /// The time since which the stream itself has been missing.
    stream_gone_since: Option<Instant>,
}

impl ShardCursor {
    /// Begins at `start`. `ceiling` is the longest delay of ordinary retries.
    pub(super) fn new(
        shard: ShardToRead,
        listing: Arc<StreamListing>,
        health: Arc<Health>,
        start: StartPosition,
        ceiling: Duration,
    ) -> Self {
        Self {
            shard,
            listing,
            health,
            start,
            backoff: Backoff::new(FIRST_DELAY, ceiling),
            slow_backoff: Backoff::new(retry::SLOW_RETRY, retry::SLOW_RETRY_CEILING),
            missing_since: None,
            stream_gone_since: None,
        }
    }

    pub(super) fn names(&self) -> &Arc<ShardNames> {
        &self.shard.names
    }

    /// The delay before the next ordinary try.
    pub(super) fn next_delay(&mut self) -> Duration {
        self.backoff.next_delay(fastrand::f64())
    }

    /// Reports that the shard can't be read because of what only time or a person can fix. Returns the delay before the
    /// next try.
    pub(super) fn unreadable(&mut self, cause: &dyn Display) -> Duration {
        self.health.unreadable(&self.shard.names, cause);
        self.slow_delay()
    }

    fn slow_delay(&mut self) -> Duration {
        self.slow_backoff.next_delay(fastrand::f64())
    }

    /// Counts and logs a fault, after which the reader waits for `delay`.
    pub(super) fn failed(&self, fault: &Fault, delay: Duration) {
        self.shard.meter.fault(fault, self.backoff.tries(), delay);
    }

    /// Advances behind records that were read, or to a new position. The result is `None` if that is nothing new.
    pub(super) fn advance(&mut self, rows: Rows, place: SequenceNumber, permit: Permit) -> Option<Step> {
        let moved = !rows.is_empty() || self.start != StartPosition::After(place.clone());
        let not_before = match self.start {
            StartPosition::At(time) => Some(time),
            _ => None,
        };
        // The next start is by time again until a wanted record has arrived: a sequence number would mean that every
        // record behind it is wanted.
        let all_unwanted = not_before
            .is_some_and(|time| rows.iter().all(|record| record.arrival_millis().is_some_and(|millis| millis < time)));
        if !all_unwanted || rows.is_empty() {
            self.start = StartPosition::After(place.clone());
        }
        if moved {
            self.backoff.reset();
            self.slow_backoff.reset();
        }
        self.note_read();
        moved.then_some(Step::Event(ReadEvent { rows, continuation: place, permit, not_before }))
    }

    /// Notes that the shard was read, whether it brought anything or not.
    pub(super) fn note_read(&mut self) {
        self.health.reads(&self.shard.names);
        (self.missing_since, self.stream_gone_since) = (None, None);
    }

    /// Handles a refused start position: a stored one has expired. The result is how long to wait before the next try,
    /// if it is not to be soon.
    pub(super) async fn start_expired(&mut self, fault: &Fault, now: Instant) -> Option<Duration> {
        match &self.start {
            // The sequence number may come from a former stream of this name; then it is not an expired one.
            StartPosition::After(_) | StartPosition::AtRecord(_)
                if self.listing.identity(now).await == StreamIdentity::Recreated =>
            {
                Some(self.slow_delay())
            }
            StartPosition::After(place) | StartPosition::AtRecord(place) => {
                self.shard.meter.expired(place.as_str());
                self.start = StartPosition::Oldest;
                None
            }
            // The service refuses a time ahead of its clock, and the clock of this host may be ahead; the time will
            // come. An odd fault of one shard concerns that shard only.
            StartPosition::At(_) | StartPosition::Oldest => Some(self.unreadable(fault)),
        }
    }

    /// Finds out whether the stream is missing. The result is `None` if it is there, or if that is unknown.
    pub(super) async fn search_stream(&mut self, now: Instant) -> Result<Option<Search>, ReadError> {
        match self.listing.identity(now).await {
            // The coordinator is notified too, and has this reader stopped.
            StreamIdentity::Recreated => {
                return Ok(Some(Search::NotYet("the stream was deleted and recreated".into())));
            }
            StreamIdentity::Gone => {
                let since = *self.stream_gone_since.get_or_insert(now);
                if now.duration_since(since) >= STREAM_GONE_AFTER {
                    return Err(self.fatal(&"the stream no longer exists"));
                }
                return Ok(Some(Search::NotYet("the stream does not exist; waiting for one of its name".into())));
            }
            StreamIdentity::Same => self.stream_gone_since = None,
            StreamIdentity::Unknown => {}
        }
        Ok(None)
    }

    /// Finds out whether the shard is missing.
    pub(super) async fn search_shard(&mut self, now: Instant) -> Search {
        match self.listing.presence(&self.shard.names.shard, now).await {
            Some(ShardPresence::Missing { asked_at, children }) => {
                let since = *self.missing_since.get_or_insert(asked_at);
                if asked_at.duration_since(since) < CONFIRMED_AFTER {
                    return Search::NotYet("the shard is not listed".into());
                }
                // A recreated stream may have fewer shards.
                match self.listing.identity(asked_at).await {
                    StreamIdentity::Same => Search::Over(children),
                    _ => Search::NotYet("the shard is not listed".into()),
                }
            }
            Some(ShardPresence::Listed) => {
                self.missing_since = None;
                Search::There
            }
            None => Search::There,
        }
    }

    /// Acts on the result of a search. Either the shard has ended, or the reader waits for as long as this says, or for
    /// its ordinary delay.
    pub(super) fn searched(&mut self, search: Search) -> Result<Option<Duration>, Step> {
        match search {
            Search::Over(children) => {
                self.shard.meter.vanished();
                Err(Step::End(children))
            }
            Search::There => Ok(None),
            Search::NotYet(reason) => Ok(Some(self.unreadable(&reason))),
        }
    }

    pub(super) fn fatal(&self, cause: &dyn Display) -> ReadError {
        let names = &self.shard.names;
        ReadError { stream: names.stream.to_string(), shard: names.shard.to_string(), cause: cause.to_string() }
    }
}

impl Drop for ShardCursor {
    fn drop(&mut self) {
        // The shard has ended, or its lease was lost, or the input stops: the reader reports nothing about it any more.
        self.health.forget(&self.shard.names);
    }
}
