//! The longhaul command: arguments, signals, exit codes; one file per command.
//!
//! Data goes to stdout, diagnostics to stderr. Exit codes: 0 well, 1 found wrong, 2 wrong use.

#![expect(clippy::print_stdout, reason = "a command prints what was asked for")]

mod commands;
mod http;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use longhaul_telemetry::LogFormat;

use commands::{certs, generate, parked, publish, run, show, subscribe, tap, top, up, validate};

/// Also what the Kafka library allocates comes from here: events are allocated by one thread and freed by another, which the system's allocator
/// pays dearly for.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Carries events between Kafka, RabbitMQ, NATS and embedded brokers of many regions.
#[derive(Parser)]
#[command(name = "longhaul", version, propagate_version = true)]
struct Arguments {
    /// Log lines: text on a terminal, JSON on request.
    #[arg(long, global = true, env = "LONGHAUL_LOG_FORMAT", value_enum, default_value_t = LogChoice::Auto)]
    log_format: LogChoice,
    /// What is logged: a level, or targets with levels as in `info,longhaul_link=debug`.
    #[arg(long, global = true, env = "LONGHAUL_LOG", default_value = "info")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogChoice {
    Auto,
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a router.
    Run(run::Arguments),
    /// Runs a mesh of three regions on this machine, with embedded brokers and certificates of its own.
    Up(up::Arguments),
    /// Checks mesh and router documents; exit code 1 when one is wrong.
    Validate(validate::Arguments),
    /// Makes a certificate authority and router certificates, for development.
    Certs(certs::Arguments),
    /// A router in short: its mesh, links, brokers and flows.
    Status(show::Arguments),
    /// Links to other routers.
    Links(show::Arguments),
    /// Routes of the mesh document.
    Routes(show::Arguments),
    /// Flows: where each stands.
    Flows(show::Arguments),
    /// Brokers of the router's region.
    Brokers(show::Arguments),
    /// Links, routes, flows, brokers and parked events of a router, live.
    Top(top::Arguments),
    /// Events that pass through a router, live, and what becomes of each; by route, topic, key, correlation id.
    Tap(tap::Arguments),
    /// Events that a destination refused for good and that were set aside there: list, show, redrive, discard.
    Parked(parked::Arguments),
    /// Publishes an event into an embedded broker.
    Publish(publish::Arguments),
    /// Prints events of an embedded broker as they come.
    Subscribe(subscribe::Arguments),
    /// Generates files: the JSON Schemas of both documents.
    Generate(generate::Arguments),
}

/// How a command ended, beside well.
pub enum Failure {
    /// It found something wrong: exit code 1. The text may be empty when everything was said already.
    Wrong(String),
    /// It was used wrongly: exit code 2.
    Usage(String),
}

impl Failure {
    /// Something found wrong.
    pub fn wrong(text: impl ToString) -> Self {
        Self::Wrong(text.to_string())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One provider for every TLS in the process; a second install would only say that it is there already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let format = match arguments.log_format {
        LogChoice::Auto => LogFormat::Auto,
        LogChoice::Text => LogFormat::Text,
        LogChoice::Json => LogFormat::Json,
    };
    if let Err(error) = longhaul_telemetry::init_log(format, &arguments.log) {
        return end(Err(Failure::Usage(format!("--log: {error}"))));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Failure::wrong(format!("cannot start threads: {error}")))),
    };
    let ended = runtime.block_on(dispatch(arguments.command));
    // Broker clients keep threads of their own; the process does not wait for them.
    runtime.shutdown_background();
    end(ended)
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(arguments) => run::run(arguments).await,
        Command::Up(arguments) => up::run(arguments).await,
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Certs(arguments) => certs::run(&arguments),
        Command::Status(arguments) => show::status(&arguments).await,
        Command::Links(arguments) => show::links(&arguments).await,
        Command::Routes(arguments) => show::routes(&arguments).await,
        Command::Flows(arguments) => show::flows(&arguments).await,
        Command::Brokers(arguments) => show::brokers(&arguments).await,
        Command::Top(arguments) => top::run(arguments).await,
        Command::Tap(arguments) => tap::run(arguments).await,
        Command::Parked(arguments) => parked::run(&arguments).await,
        Command::Publish(arguments) => publish::run(arguments).await,
        Command::Subscribe(arguments) => subscribe::run(arguments).await,
        Command::Generate(arguments) => generate::run(&arguments),
    }
}

fn end(ended: Result<(), Failure>) -> ExitCode {
    let (code, text) = match ended {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Wrong(text)) => (1, text),
        Err(Failure::Usage(text)) => (2, text),
    };
    if !text.is_empty() {
        eprintln!("longhaul: {text}");
    }
    ExitCode::from(code)
}
