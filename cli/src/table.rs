//! Where is the lease table that a command is about?

use clap::Args;
use kinesis_input::inspect::TableAt;

/// The arguments that say where the lease table is, and the streams in it.
#[derive(Debug, Args)]
pub(crate) struct TableArguments {
    /// The lease table of ours: `dynamodb.table` of the pipelines.
    #[arg(long, value_name = "NAME")]
    table: String,
    /// The namespace of our rows in the table: `dynamodb.namespace` of the pipelines.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    access: AccessArguments,
}

/// The arguments that say how a table and streams are reached.
#[derive(Debug, Args)]
pub(crate) struct AccessArguments {
    /// The region of the tables and of the streams [default: the environment's]
    #[arg(long)]
    region: Option<String>,
    /// A profile of `~/.aws/credentials` [default: the environment's credentials]
    #[arg(long)]
    profile: Option<String>,
    /// The endpoint of the tables and the streams, in place of AWS's own.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The endpoint of the streams, if it differs from that of the tables.
    #[arg(long, value_name = "URL")]
    kinesis_endpoint: Option<String>,
}

impl TableArguments {
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub(crate) fn at(&self) -> TableAt {
        TableAt { namespace: self.namespace.clone(), ..self.access.at(&self.table) }
    }
}

impl AccessArguments {
    pub(crate) fn at(&self, table: &str) -> TableAt {
        let mut at = TableAt::default();
        table.clone_into(&mut at.table);
        at.region.clone_from(&self.region);
        at.endpoint.clone_from(&self.endpoint);
        at.kinesis_endpoint.clone_from(&self.kinesis_endpoint);
        at.credentials.profile = self.profile.clone().into();
        at
    }
}
