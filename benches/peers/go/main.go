// The loop that one would write with the SDK for Go.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

const consumer = "arn:aws:kinesis:us-east-1:000000000000:stream/bench/consumer/bench:1"

// meter counts payload, and reports its cost: CPU time of the process, from the first tenth of the bytes to the last.
type meter struct {
	sync.Mutex
	goal, bytes, startBytes int64
	start                   time.Time
	startCPU                float64
}

func (m *meter) count(bytes int64) {
	m.Lock()
	defer m.Unlock()
	m.bytes += bytes
	if m.start.IsZero() {
		if m.bytes >= m.goal/10 {
			m.startBytes, m.start, m.startCPU = m.bytes, time.Now(), cpuSeconds()
		}
		return
	}
	if m.bytes >= m.goal {
		cpu, seconds := cpuSeconds()-m.startCPU, time.Since(m.start).Seconds()
		fmt.Printf("{\"bytes\":%d,\"cpu_seconds\":%.2f,\"seconds\":%.3f}\n", m.bytes-m.startBytes, cpu, seconds)
		// The measuring process looks at this one from outside before it ends.
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
}

func cpuSeconds() float64 {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		log.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

func read(client *kinesis.Client, shard int, m *meter) error {
	answer, err := client.SubscribeToShard(context.Background(), &kinesis.SubscribeToShardInput{
		ConsumerARN:      aws.String(consumer),
		ShardId:          aws.String(fmt.Sprintf("shardId-%012d", shard)),
		StartingPosition: &types.StartingPosition{Type: types.ShardIteratorTypeTrimHorizon},
	})
	if err != nil {
		return err
	}
	stream := answer.GetStream()
	defer stream.Close()
	for event := range stream.Events() {
		if event, ok := event.(*types.SubscribeToShardEventStreamMemberSubscribeToShardEvent); ok {
			var bytes int64
			for _, record := range event.Value.Records {
				bytes += int64(len(record.Data))
			}
			m.count(bytes)
		}
	}
	return stream.Err()
}

func main() {
	endpoint, certificate := os.Args[1], os.Args[4]
	shards, _ := strconv.Atoi(os.Args[2])
	goal, _ := strconv.ParseInt(os.Args[3], 10, 64)
	pem, err := os.ReadFile(certificate)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := kinesis.New(kinesis.Options{
		Region:       "us-east-1",
		BaseEndpoint: aws.String(endpoint),
		Credentials:  credentials.NewStaticCredentialsProvider("bench", "bench", ""),
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		}),
	})
	m := &meter{goal: goal}
	ended := make(chan error)
	for shard := range shards {
		go func() { ended <- read(client, shard, m) }()
	}
	log.Fatalf("a subscription ended: %v", <-ended)
}
