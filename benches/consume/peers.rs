//! What are the alternatives? Loops over the SDKs of other languages, and Amazon's own consumer library.
//!
//! They are built from `benches/peers` with the tools of their language, into the target folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::AnyError;
use crate::process::{Process, Server, Stage};

/// A program to measure.
pub struct Peer {
    pub name: &'static str,
    kind: Kind,
}

enum Kind {
    Go(PathBuf),
    Java { class: &'static str, mode: Option<&'static str>, built: PathBuf, trust: PathBuf },
}

/// Builds the programs that can be built here, and reports the others.
pub fn build(stage: &Stage) -> Vec<Peer> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    let mut peers = Vec::new();
    match go(&sources.join("go"), &built) {
        Ok(program) => peers.push(Peer { name: "go-sdk", kind: Kind::Go(program) }),
        Err(error) => eprintln!("without go-sdk: {error}"),
    }
    match java(stage, &sources.join("java"), &built.join("java")) {
        Ok(trust) => {
            for (name, class, mode) in [
                ("java-sdk", "peers.SdkLoop", None),
                ("kcl", "peers.Kcl", None),
                ("kcl-poll", "peers.Kcl", Some("poll")),
            ] {
                let (built, trust) = (built.join("java"), trust.clone());
                peers.push(Peer { name, kind: Kind::Java { class, mode, built, trust } });
            }
        }
        Err(error) => eprintln!("without java-sdk and kcl: {error}"),
    }
    peers
}

fn go(source: &Path, built: &Path) -> Result<PathBuf, AnyError> {
    let program = built.join("go-sdk");
    done(Command::new("go").current_dir(source).arg("build").arg("-o").arg(&program).arg("."), "go")?;
    Ok(program)
}

/// Builds the Java programs, and converts the server's certificate to a trust store. Returns its path.
fn java(stage: &Stage, source: &Path, built: &Path) -> Result<PathBuf, AnyError> {
    let target = format!("-Dpeers.target={}", built.display());
    done(Command::new("mvn").current_dir(source).args(["-q", "-B", &target, "package"]), "mvn")?;
    let trust = stage.certificate().with_extension("p12");
    let mut keytool = Command::new("keytool");
    keytool.args(["-importcert", "-noprompt", "-storetype", "PKCS12", "-storepass", "changeit", "-file"]);
    done(keytool.arg(stage.certificate()).arg("-keystore").arg(&trust), "keytool")?;
    Ok(trust)
}

fn done(command: &mut Command, tool: &str) -> Result<(), AnyError> {
    let output = command.output().map_err(|error| format!("{tool}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{tool} failed: {}", String::from_utf8_lossy(&said)).into())
}

impl Peer {
    /// Starts the program.
    pub fn read(&self, stage: &Stage, server: &Server, shards: usize, bytes: u64) -> Result<Process, AnyError> {
        let numbers = [format!("https://localhost:{}", server.port), shards.to_string(), bytes.to_string()];
        let mut command = match &self.kind {
            Kind::Go(program) => {
                let mut command = Command::new(program);
                command.args(numbers).arg(stage.certificate());
                command
            }
            Kind::Java { class, mode, built, trust } => {
                let mut command = Command::new("java");
                command
                    .arg(format!("-Djavax.net.ssl.trustStore={}", trust.display()))
                    .arg("-Djavax.net.ssl.trustStorePassword=changeit")
                    // The server speaks JSON; the environment variable of this name has no effect.
                    .arg("-Daws.cborEnabled=false")
                    .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
                    .arg("-cp")
                    .arg(format!("{}:{}", built.join("classes").display(), built.join("lib/*").display()))
                    .arg(class)
                    .args(numbers)
                    .arg(format!("http://localhost:{}", server.table_port))
                    .args(*mode);
                command
            }
        };
        // Regions, credentials and proxies of the machine must not affect a benchmark.
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        Process::start(command)
    }
}
