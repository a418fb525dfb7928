//! Are all shards found if a listing has more than one page?

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use kinesis_input::KinesisInput;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::{build, close};

const STREAM: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/orders";

/// A service that lists its shards on two pages.
#[derive(Debug, Clone)]
struct Service {
    subscribed: watch::Sender<BTreeSet<String>>,
    pages: Arc<Mutex<Vec<Value>>>,
}

impl Service {
    fn answer(&self, operation: &str, request: &Value) -> (u16, Value) {
        let shard = |id: &str| {
            json!({
                "ShardId": id,
                "HashKeyRange": { "StartingHashKey": "0", "EndingHashKey": "1" },
                "SequenceNumberRange": { "StartingSequenceNumber": "1" },
            })
        };
        match operation {
            "DescribeStreamSummary" => (
                200,
                json!({ "StreamDescriptionSummary": {
                    "StreamName": "orders", "StreamARN": STREAM, "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24,
                    "StreamCreationTimestamp": 1.7E9, "EnhancedMonitoring": [], "OpenShardCount": 2,
                }}),
            ),
            "ListShards" => {
                self.pages.lock().unwrap().push(request.clone());
                match request.get("NextToken") {
                    None => (200, json!({ "Shards": [shard("shardId-0")], "NextToken": "more" })),
                    Some(_) => (200, json!({ "Shards": [shard("shardId-1")] })),
                }
            }
            "DescribeStreamConsumer" => (
                200,
                json!({ "ConsumerDescription": {
                    "ConsumerName": "c", "ConsumerARN": format!("{STREAM}/consumer/c:1"), "ConsumerStatus": "ACTIVE",
                    "ConsumerCreationTimestamp": 1.7E9, "StreamARN": STREAM,
                }}),
            ),
            "SubscribeToShard" => {
                let shard = request["ShardId"].as_str().unwrap().to_owned();
                self.subscribed.send_if_modified(|subscribed| subscribed.insert(shard));
                (400, json!({ "__type": "ResourceInUseException", "message": "not now" }))
            }
            other => panic!("{other}"),
        }
    }
}

impl HttpConnector for Service {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap().rsplit('.').next().unwrap().to_owned();
        let body = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
        let (status, answer) = self.answer(&target, &body);
        let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(answer.to_string()));
        response.headers_mut().insert("content-type", "application/x-amz-json-1.1");
        HttpConnectorFuture::ready(Ok(response))
    }
}

#[tokio::test]
async fn shards_of_every_page_are_read() {
    let service = Service { subscribed: watch::channel(BTreeSet::new()).0, pages: Arc::default() };
    let connector = SharedHttpConnector::new(service.clone());
    let client: SharedHttpClient = http_client_fn(move |_, _| connector.clone());
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "streams: [orders]\nregion: us-east-1\ncheckpoint_file: \"{}\"\ncredentials: {{id: test, secret: test}}\n\
         enhanced_fan_out: {{enabled: true}}\n",
        folder.path().join("checkpoints").display()
    );
    let input = build(KinesisInput::new().http_client(client), &yaml);
    input.connect().await.unwrap();
    service.subscribed.subscribe().wait_for(|shards| shards.len() == 2).await.unwrap();
    close(&*input).await;
    let pages = service.pages.lock().unwrap();
    // A token identifies the stream; a call with both would be refused.
    assert_eq!(pages[1], json!({ "NextToken": "more" }));
}
