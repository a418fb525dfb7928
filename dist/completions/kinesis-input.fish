# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kinesis_input_global_optspecs
    string join \n h/help V/version
end

function __fish_kinesis_input_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kinesis_input_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kinesis_input_using_subcommand
    set -l cmd (__fish_kinesis_input_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -s V -l version -d 'Print version'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "run" -d 'Run a pipeline until its input ends. Ctrl-C, SIGTERM or SIGHUP stops it gracefully, a second one at once'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "lint" -d 'Show everything that is wrong or odd in pipeline files, without running them'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "check" -d 'Try what a run of a pipeline would need, without reading: credentials, hosts, permissions, the table or file, and the output. Starts nothing and registers nothing'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "policy" -d 'Print the smallest IAM policy with which a pipeline can run'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "leases" -d 'Show which worker owns which shard of a lease table, since when, and how far behind it is'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "peek" -d 'Show some records of a stream, and take nothing away from those that read it'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "reset" -d 'Read a stream, or some of its shards, again from another position, while no pipeline reads it'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "top" -d 'Show on this terminal what workers do at the moment'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "kcl" -d 'Change over from Amazon\'s KCL, and back'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "schema" -d 'Print the JSON Schema of pipeline files, or of one input\'s block'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "docs" -d 'Print the reference of an input, in Markdown'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "create" -d 'Print an annotated pipeline file to start from'
complete -c kinesis-input -n "__fish_kinesis_input_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand run" -l log-format -d 'How log lines are written to standard error' -r -f -a "text\t'Text for people'
json\t'One JSON object a line'"
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand run" -l log-level -d 'error, warn, info, debug, trace, or a filter such as `warn,kinesis_input=debug`' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand run" -l http -l metrics -d 'Serve a page for people, its numbers as JSON, health checks and Prometheus metrics at this port of 127.0.0.1, or at this address and port' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand run" -l otlp -d 'Export metrics, and a trace for each batch, to a collector of OpenTelemetry, as the OTEL_ variables of the environment say. The program has to be built with the feature `otlp`'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand lint" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand check" -l json -d 'Print JSON: one object, at the end'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand check" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand policy" -l region -d 'The region, if the file does not say it' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand policy" -l account -d 'The account of the streams and the table' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand policy" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l table -d 'The lease table of ours: `dynamodb.table` of the pipelines' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l namespace -d 'The namespace of our rows in the table: `dynamodb.namespace` of the pipelines' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l region -d 'The region of the tables and of the streams [default: the environment\'s]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l profile -d 'A profile of `~/.aws/credentials` [default: the environment\'s credentials]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l endpoint -d 'The endpoint of the tables and the streams, in place of AWS\'s own' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l kinesis-endpoint -d 'The endpoint of the streams, if it differs from that of the tables' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l stream -d 'Only this stream, as the table calls it: by name or ARN' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l release -d 'Release the leases of this worker, which is gone for good and did not stop gracefully. Asks for confirmation first' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l watch -d 'For how many seconds a worker is observed before it is considered gone' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l table-only -d 'Don\'t ask the streams how far behind each shard is'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l json -d 'Print JSON'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -l yes -d 'Don\'t ask for confirmation before releasing'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand leases" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l stream -d 'The stream, by name or ARN' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l shard -d 'Only these shards. Otherwise all of the stream' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l from -d 'Where to begin: `oldest`, `latest` (what is written from now on), a time in RFC 3339, or the sequence number of a record of one shard' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l count -d 'How many records to show' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l bytes -d 'How many bytes of each payload to show' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l region -d 'The region of the tables and of the streams [default: the environment\'s]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l profile -d 'A profile of `~/.aws/credentials` [default: the environment\'s credentials]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l endpoint -d 'The endpoint of the tables and the streams, in place of AWS\'s own' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l kinesis-endpoint -d 'The endpoint of the streams, if it differs from that of the tables' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l hex -d 'Show payloads in hexadecimal, even if they are text'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -l json -d 'Print a JSON object for each record, with its whole payload'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand peek" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l stream -d 'The stream, by name or ARN, as the pipelines call it' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l to -d 'Where to read from: `oldest`, `latest`, a time in RFC 3339, or the sequence number of a record of one shard' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l shard -d 'Only these shards, and those that were split or merged from them. Otherwise all of the stream' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l table -d 'The lease table: `dynamodb.table` of the pipelines' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l namespace -d 'The namespace of the rows in the table: `dynamodb.namespace` of the pipelines' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l checkpoint-file -d 'The checkpoint file of the pipeline, if it has one in place of a table' -r -F
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l region -d 'The region of the tables and of the streams [default: the environment\'s]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l profile -d 'A profile of `~/.aws/credentials` [default: the environment\'s credentials]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l endpoint -d 'The endpoint of the tables and the streams, in place of AWS\'s own' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l kinesis-endpoint -d 'The endpoint of the streams, if it differs from that of the tables' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l dry-run -d 'Show what would happen, and write nothing'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l yes -d 'Don\'t ask for confirmation before writing'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -l json -d 'Print JSON'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand reset" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand top" -l http -d 'Workers to ask: the addresses that `run --http` serves' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand top" -l table -d 'In place of workers, a lease table: `dynamodb.table` of the pipelines' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand top" -l region -d 'The region of the tables and of the streams [default: the environment\'s]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand top" -l profile -d 'A profile of `~/.aws/credentials` [default: the environment\'s credentials]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand top" -l endpoint -d 'The endpoint of the tables and the streams, in place of AWS\'s own' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand top" -l kinesis-endpoint -d 'The endpoint of the streams, if it differs from that of the tables' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand top" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and not __fish_seen_subcommand_from import export help" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and not __fish_seen_subcommand_from import export help" -f -a "import" -d 'Take over the positions of an application of the KCL, which has been stopped. Nothing of the KCL\'s is changed'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and not __fish_seen_subcommand_from import export help" -f -a "export" -d 'Give positions to an application of the KCL, which does not run. Our table is not changed'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and not __fish_seen_subcommand_from import export help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l app -d 'The application of the KCL, whose lease table has its name' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l stream -d 'The stream, by name or ARN, as the pipelines call it' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l table -d 'The lease table of ours: `dynamodb.table` of the pipelines' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l namespace -d 'The namespace of our rows in the table: `dynamodb.namespace` of the pipelines' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l region -d 'The region of the tables and of the streams [default: the environment\'s]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l profile -d 'A profile of `~/.aws/credentials` [default: the environment\'s credentials]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l endpoint -d 'The endpoint of the tables and the streams, in place of AWS\'s own' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l kinesis-endpoint -d 'The endpoint of the streams, if it differs from that of the tables' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l failover -d 'The failover time of the KCL in seconds: its table is watched for longer than this' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l timestamp -d 'The time at which the KCL begins, where its table says `AT_TIMESTAMP`; RFC 3339' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l dry-run -d 'Show what would happen, and write nothing'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l yes -d 'Don\'t ask for confirmation before writing'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l json -d 'Print JSON'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l overwrite -d 'Replace rows of ours that have no owner and are not further'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -l create -d 'Create the table of ours if it doesn\'t exist'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from import" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l app -d 'The application of the KCL, whose lease table has its name' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l stream -d 'The stream, by name or ARN, as the pipelines call it' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l table -d 'The lease table of ours: `dynamodb.table` of the pipelines' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l namespace -d 'The namespace of our rows in the table: `dynamodb.namespace` of the pipelines' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l region -d 'The region of the tables and of the streams [default: the environment\'s]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l profile -d 'A profile of `~/.aws/credentials` [default: the environment\'s credentials]' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l endpoint -d 'The endpoint of the tables and the streams, in place of AWS\'s own' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l kinesis-endpoint -d 'The endpoint of the streams, if it differs from that of the tables' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l failover -d 'The failover time of the KCL in seconds: its table is watched for longer than this' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l dry-run -d 'Show what would happen, and write nothing'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l yes -d 'Don\'t ask for confirmation before writing'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l json -d 'Print JSON'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -l create -d 'Make rows of shards that the KCL has none of, and its table if it doesn\'t exist'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from export" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from help" -f -a "import" -d 'Take over the positions of an application of the KCL, which has been stopped. Nothing of the KCL\'s is changed'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from help" -f -a "export" -d 'Give positions to an application of the KCL, which does not run. Our table is not changed'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand kcl; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand schema" -l input -d 'Only the block of this input' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand schema" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand docs" -l input -d 'The name of the input' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand docs" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand create" -l input -d 'The name of the input' -r
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand create" -l small -d 'Only the common fields'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand create" -s h -l help -d 'Print help'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "run" -d 'Run a pipeline until its input ends. Ctrl-C, SIGTERM or SIGHUP stops it gracefully, a second one at once'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "lint" -d 'Show everything that is wrong or odd in pipeline files, without running them'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "check" -d 'Try what a run of a pipeline would need, without reading: credentials, hosts, permissions, the table or file, and the output. Starts nothing and registers nothing'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "policy" -d 'Print the smallest IAM policy with which a pipeline can run'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "leases" -d 'Show which worker owns which shard of a lease table, since when, and how far behind it is'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "peek" -d 'Show some records of a stream, and take nothing away from those that read it'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "reset" -d 'Read a stream, or some of its shards, again from another position, while no pipeline reads it'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "top" -d 'Show on this terminal what workers do at the moment'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "kcl" -d 'Change over from Amazon\'s KCL, and back'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "schema" -d 'Print the JSON Schema of pipeline files, or of one input\'s block'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "docs" -d 'Print the reference of an input, in Markdown'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "create" -d 'Print an annotated pipeline file to start from'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and not __fish_seen_subcommand_from run lint check policy leases peek reset top kcl schema docs create help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and __fish_seen_subcommand_from kcl" -f -a "import" -d 'Take over the positions of an application of the KCL, which has been stopped. Nothing of the KCL\'s is changed'
complete -c kinesis-input -n "__fish_kinesis_input_using_subcommand help; and __fish_seen_subcommand_from kcl" -f -a "export" -d 'Give positions to an application of the KCL, which does not run. Our table is not changed'
