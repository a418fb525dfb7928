//! The calls about streams and their shards.

use serde_json::{Value, json};

use super::number::shard_id;
use super::request::Request;
use super::shard::Shard;
use super::stream::{Distribution, Key, Status, Stream};
use super::{Kinesis, Reshard, ServiceError};
use crate::time::Time;

type Answer = Result<Value, ServiceError>;

impl Kinesis {
    pub(super) fn create_stream(&mut self, request: Request<'_>) -> Answer {
        let name = request.required("StreamName")?;
        self.call_limit("CreateStream", "", 5.0)?;
        if self.streams.contains_key(name) {
            return Err(ServiceError::in_use(format!(
                "Stream {name} under account {} already exists.",
                self.settings.account
            )));
        }
        let shards = request.number("ShardCount").unwrap_or(4).max(1) as u32;
        let arn = format!("arn:aws:kinesis:{}:{}:stream/{name}", self.settings.region, self.settings.account);
        let mut stream = Stream::new(name, arn, shards, self.now, &self.settings);
        let mode = request.object("StreamModeDetails").and_then(|mode| mode.text("StreamMode"));
        stream.on_demand = mode == Some("ON_DEMAND");
        if request.text("RecordDistributionStrategy").is_some() {
            distribute(&mut stream, request)?;
        }
        self.streams.insert(name.to_owned(), stream);
        Ok(json!({}))
    }

    pub(super) fn delete_stream(&mut self, request: Request<'_>) -> Answer {
        let name = request.stream()?;
        let until = self.now + self.settings.deletion;
        let stream = self.stream_mut(name)?;
        stream.status = Status::Deleting;
        stream.until = until;
        self.touch(name, None);
        Ok(json!({}))
    }

    pub(super) fn describe_limits(&mut self) -> Answer {
        self.call_limit("DescribeLimits", "", 1.0)?;
        let open: usize = self.streams.values().map(|stream| stream.open_shards().count()).sum();
        Ok(
            json!({ "ShardLimit": 20_000, "OpenShardCount": open, "OnDemandStreamCount": 0, "OnDemandStreamCountLimit": 50 }),
        )
    }

    pub(super) fn list_streams(&mut self, request: Request<'_>) -> Answer {
        self.call_limit("ListStreams", "", 5.0)?;
        let after = request.text("ExclusiveStartStreamName").or_else(|| request.text("NextToken")).unwrap_or_default();
        let limit = request.number("Limit").unwrap_or(100) as usize;
        let names: Vec<&str> = self.streams.keys().map(String::as_str).filter(|name| *name > after).collect();
        let more = names.len() > limit;
        let names = &names[..names.len().min(limit)];
        let mut answer = json!({ "StreamNames": names, "HasMoreStreams": more });
        if let Some(last) = names.last().filter(|_| more) {
            answer["NextToken"] = json!(last);
        }
        Ok(answer)
    }

    pub(super) fn describe_stream_summary(&mut self, request: Request<'_>) -> Answer {
        self.call_limit("DescribeStreamSummary", "", 20.0)?;
        let stream = self.stream(request.stream()?)?;
        let mut summary = about(stream);
        summary["OpenShardCount"] = json!(stream.open_shards().count());
        summary["ConsumerCount"] = json!(stream.consumers.len());
        Ok(json!({ "StreamDescriptionSummary": summary }))
    }

    pub(super) fn describe_stream(&mut self, request: Request<'_>) -> Answer {
        self.call_limit("DescribeStream", "", 10.0)?;
        let stream = self.stream(request.stream()?)?;
        let after = request.text("ExclusiveStartShardId").unwrap_or_default();
        let limit = request.number("Limit").unwrap_or(100) as usize;
        let shards: Vec<&Shard> = stream.shards.values().filter(|shard| shard_id(shard.id).as_str() > after).collect();
        let mut answer = about(stream);
        answer["HasMoreShards"] = json!(shards.len() > limit);
        answer["Shards"] = shards.into_iter().take(limit).map(|shard| listed(shard, self.now)).collect();
        Ok(json!({ "StreamDescription": answer }))
    }

    pub(super) fn list_shards(&mut self, request: Request<'_>) -> Answer {
        let token = request.text("NextToken");
        let (name, after) = match token {
            Some(_) if request.text("StreamName").is_some() || request.text("StreamARN").is_some() => {
                return Err(ServiceError::invalid("NextToken and StreamName or StreamARN must not be given together."));
            }
            Some(token) => {
                let (name, after) = token.rsplit_once('/').ok_or_else(|| expired_token(token))?;
                (name, Some(after))
            }
            None => (request.stream()?, request.text("ExclusiveStartShardId")),
        };
        self.call_limit("ListShards", name, 1000.0)?;
        let (now, page) = (self.now, self.settings.page);
        self.listings += 1;
        // Some pages have an age of their own; the order of the calls says which.
        let older = if self.listings.is_multiple_of(3) { self.settings.page_lag } else { std::time::Duration::ZERO };
        let at = now - self.settings.listing_lag - older;
        let stream = self.stream(name)?;
        let limit = request.number("MaxResults").map_or(page, |most| page.min(most as usize)).max(1);
        let filter = request.object("ShardFilter");
        let mut shards = Vec::new();
        for shard in stream.shards.values() {
            let late = after.is_none_or(|after| shard_id(shard.id).as_str() > after);
            let shows = shard.start.time() <= at.max(stream.created);
            if late && shows && passes(stream, shard, filter, now)? {
                shards.push(shard);
            }
        }
        let more = shards.len() > limit;
        shards.truncate(limit);
        let mut answer = json!({ "Shards": shards.iter().map(|shard| listed(shard, at)).collect::<Vec<_>>() });
        if let Some(last) = shards.last().filter(|_| more) {
            answer["NextToken"] = json!(format!("{name}/{}", shard_id(last.id)));
        }
        Ok(answer)
    }

    pub(super) fn change_retention(&mut self, request: Request<'_>) -> Answer {
        let hours =
            request.number("RetentionPeriodHours").ok_or_else(|| ServiceError::invalid("RetentionPeriodHours"))?;
        self.stream_mut(request.stream()?)?.retention = std::time::Duration::from_hours(hours);
        Ok(json!({}))
    }

    pub(super) fn split_shard(&mut self, request: Request<'_>) -> Answer {
        let name = request.stream()?;
        let shard = request.shard("ShardToSplit")?;
        let at = request.hash_key("NewStartingHashKey")?;
        let stream = self.stream(name)?;
        let parent = open(stream, shard)?;
        let (low, high) = (*parent.hashes.start(), *parent.hashes.end());
        let at = at.unwrap_or(low + (high - low) / 2 + 1);
        if at <= low || at > high {
            return Err(ServiceError::invalid(format!("NewStartingHashKey {at} is not inside the shard.")));
        }
        self.reshard(name, vec![Reshard::Split { shard, at }])
    }

    pub(super) fn merge_shards(&mut self, request: Request<'_>) -> Answer {
        let name = request.stream()?;
        let (shard, with) = (request.shard("ShardToMerge")?, request.shard("AdjacentShardToMerge")?);
        let stream = self.stream(name)?;
        let (one, other) = (open(stream, shard)?, open(stream, with)?);
        let touch = |low: &Shard, high: &Shard| low.hashes.end().checked_add(1) == Some(*high.hashes.start());
        if !touch(one, other) && !touch(other, one) {
            return Err(ServiceError::invalid(format!(
                "Shards {} and {} are not adjacent.",
                shard_id(shard),
                shard_id(with)
            )));
        }
        self.reshard(name, vec![Reshard::Merge { shard, with }])
    }

    pub(super) fn update_shard_count(&mut self, request: Request<'_>) -> Answer {
        let name = request.stream()?;
        let target =
            request.number("TargetShardCount").ok_or_else(|| ServiceError::invalid("TargetShardCount"))? as usize;
        let stream = self.stream(name)?;
        let before = stream.open_shards().count();
        if target > 2 * before || target < before.div_ceil(2) {
            return Err(ServiceError::limit("UpdateShardCount can at most double or halve the shards."));
        }
        let answer = json!({
            "StreamName": name, "StreamARN": stream.arn, "CurrentShardCount": before, "TargetShardCount": target,
        });
        let plan = stream.plan(target);
        self.reshard(name, plan)?;
        Ok(answer)
    }

    pub(super) fn update_distribution(&mut self, request: Request<'_>) -> Answer {
        request.required("StreamARN")?;
        distribute(self.stream_mut(request.stream()?)?, request)?;
        Ok(json!({}))
    }

    fn reshard(&mut self, name: &str, plan: Vec<Reshard>) -> Answer {
        let due = self.now + self.settings.reshard;
        let stream = self.stream_mut(name)?;
        if stream.status != Status::Active {
            return Err(ServiceError::in_use(format!(
                "Stream {name} is {}, it has to be ACTIVE.",
                stream.status.name()
            )));
        }
        stream.status = Status::Updating;
        stream.reshards = plan.into_iter().map(|reshard| (due, reshard)).collect();
        Ok(json!({}))
    }
}

/// Changes what decides into which shard a record goes.
fn distribute(stream: &mut Stream, request: Request<'_>) -> Result<(), ServiceError> {
    let distribution = match request.required("RecordDistributionStrategy")? {
        "USER_PARTITION_KEY" => Distribution::ByKey,
        "AUTO" if stream.on_demand => Distribution::Auto,
        "AUTO" => return Err(ServiceError::invalid("Only an on-demand stream distributes records by itself.")),
        other => return Err(ServiceError::validation(format!("{other} is no way to distribute records."))),
    };
    stream.distribution = distribution;
    Ok(())
}

fn expired_token(token: &str) -> ServiceError {
    ServiceError::new("ExpiredNextTokenException", format!("{token} is no token."))
}

fn open(stream: &Stream, shard: u32) -> Result<&Shard, ServiceError> {
    let found = stream.shards.get(&shard);
    let found = found.ok_or_else(|| ServiceError::not_found(format!("Shard {} not found.", shard_id(shard))))?;
    if found.is_open() {
        Ok(found)
    } else {
        Err(ServiceError::invalid(format!("Shard {} is closed.", shard_id(shard))))
    }
}

/// Whether a shard was open at a time.
fn was_open(shard: &Shard, at: Time) -> bool {
    shard.start.time() <= at && shard.end.is_none_or(|end| end.time() >= at)
}

fn passes(stream: &Stream, shard: &Shard, filter: Option<Request<'_>>, now: Time) -> Result<bool, ServiceError> {
    let Some(filter) = filter else { return Ok(true) };
    let horizon = stream.oldest(now);
    let time = || filter.time("Timestamp").ok_or_else(|| ServiceError::invalid("Timestamp is missing."));
    Ok(match filter.required("Type")? {
        "AT_LATEST" => shard.is_open(),
        "AT_TRIM_HORIZON" => was_open(shard, horizon.max(stream.created)),
        "FROM_TRIM_HORIZON" => true,
        "AT_TIMESTAMP" => was_open(shard, time()?.max(horizon).max(stream.created)),
        "FROM_TIMESTAMP" => {
            let time = time()?;
            shard.end.is_none_or(|end| end.time() >= time)
        }
        "AFTER_SHARD_ID" => shard_id(shard.id).as_str() > filter.required("ShardId")?,
        other => return Err(ServiceError::validation(format!("{other} is no type of a filter."))),
    })
}

fn about(stream: &Stream) -> Value {
    json!({
        "StreamName": stream.name,
        "StreamARN": stream.arn,
        "StreamStatus": stream.status.name(),
        "StreamModeDetails": { "StreamMode": if stream.on_demand { "ON_DEMAND" } else { "PROVISIONED" } },
        "RecordDistributionStrategy": stream.distribution.name(),
        "RetentionPeriodHours": stream.retention.as_secs().div_ceil(3600),
        "StreamCreationTimestamp": stream.created.seconds(),
        "EnhancedMonitoring": [{ "ShardLevelMetrics": [] }],
        "EncryptionType": if stream.key == Key::Usable { "NONE" } else { "KMS" },
    })
}

/// A shard as it was at a time.
fn listed(shard: &Shard, at: Time) -> Value {
    let mut numbers = json!({ "StartingSequenceNumber": shard.start.to_string() });
    if let Some(end) = shard.end.filter(|end| end.time() <= at) {
        numbers["EndingSequenceNumber"] = json!(end.to_string());
    }
    let mut answer = json!({
        "ShardId": shard_id(shard.id),
        "HashKeyRange": {
            "StartingHashKey": shard.hashes.start().to_string(), "EndingHashKey": shard.hashes.end().to_string(),
        },
        "SequenceNumberRange": numbers,
    });
    for (name, parent) in ["ParentShardId", "AdjacentParentShardId"].iter().zip(&shard.parents) {
        answer[name] = json!(shard_id(*parent));
    }
    answer
}
