//! Does the input keep the contract of all inputs?

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use hyper::body::Frame;
use pipeline_plugin_api::conformance::{self, Harness, Options, Source, Support};
use pipeline_plugin_api::{BoxError, Input};
use tokio::sync::watch;

use crate::support::{Bench, plain_http, quick};
use kinesis_testkit::local_kinesis::{LocalKinesis, Plain, Wire};

const SHARDS: u128 = 2;

struct Streams;

#[async_trait]
impl Harness for Streams {
    async fn source(&self) -> Result<Box<dyn Source>, BoxError> {
        let (cut, cuts) = watch::channel(());
        let mut wire = Wire::new(Plain);
        wire.tamper = Arc::new(move |operation, answer| {
            if operation != "SubscribeToShard" {
                return answer;
            }
            // Every subscription ends when the test says so.
            let mut cuts = cuts.clone();
            cuts.mark_unchanged();
            answer.map(|body| {
                let chunks = body.into_data_stream().map(|chunk| chunk.map(Frame::data));
                let cut = Box::pin(async move { cuts.changed().await });
                http_body_util::StreamBody::new(chunks.take_until(cut)).boxed_unsync()
            })
        });
        let bench = Bench::with(LocalKinesis::start_with(quick(), wire).await?, plain_http());
        bench.create("orders", SHARDS as i32).await;
        Ok(Box::new(Orders { bench, cut }))
    }
}

struct Orders {
    bench: Bench,
    cut: watch::Sender<()>,
}

#[async_trait]
impl Source for Orders {
    fn lanes(&self) -> usize {
        SHARDS as usize
    }

    async fn input(&self) -> Result<Arc<dyn Input>, BoxError> {
        // The shards are named, so that the input ends with them.
        Ok(self.bench.input("orders:0,orders:1", ""))
    }

    async fn put(&self, lane: usize, payloads: Vec<Bytes>) -> Result<(), BoxError> {
        for payload in payloads {
            self.bench.put_at("orders", u128::MAX / SHARDS * lane as u128 + 1, payload.to_vec()).await;
        }
        Ok(())
    }

    async fn break_connection(&self) -> Result<Support, BoxError> {
        self.cut.send_replace(());
        Ok(Support::Done)
    }

    async fn end(&self) -> Result<Support, BoxError> {
        for shard in 0..SHARDS {
            self.bench.split("orders", &format!("shardId-{shard:012}")).await;
        }
        Ok(Support::Done)
    }
}

#[tokio::test]
async fn input_conforms() {
    let report = conformance::run(&Streams, &Options::default()).await;
    assert!(report.skipped().is_empty());
    report.unwrap();
}
