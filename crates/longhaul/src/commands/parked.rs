//! `longhaul parked`: what was set aside because its destination refused it for good.

use bytes::Bytes;
use longhaul_router::{ParkedEvent, ParkedView};

use super::show;
use crate::Failure;
use crate::http::{Call, text};
use crate::table::{or_dash, render};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// What is parked in the brokers of the router's region, oldest first.
    List {
        #[command(flatten)]
        router: show::Arguments,
        /// Of that route only.
        #[arg(long)]
        route: Option<String>,
    },
    /// One parked event, whole.
    Show {
        #[command(flatten)]
        router: show::Arguments,
        /// Its id, as `list` shows it.
        id: String,
    },
    /// Writes parked events to their destination as the route says now, then removes them; what is refused again stays.
    Redrive(Chosen),
    /// Removes parked events for good.
    Discard(Chosen),
}

#[derive(clap::Args)]
struct Chosen {
    #[command(flatten)]
    router: show::Arguments,
    /// The router's admin token.
    #[arg(long, env = "LONGHAUL_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Ids, as `list` shows them.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All that are parked, in the order in which they were.
    #[arg(long)]
    all: bool,
    /// With `--all`: of that route only.
    #[arg(long, requires = "all")]
    route: Option<String>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        Action::List { router, route } => router.print(&list(router, route.as_deref()).await?, |parked| table(parked)),
        Action::Show { router, id } => {
            let event: ParkedEvent = router.get(&format!("parked/{id}")).await?;
            router.print(&event, whole)
        }
        Action::Redrive(chosen) => chosen.each("POST", "/redrive", "redriven").await,
        Action::Discard(chosen) => chosen.each("DELETE", "", "discarded").await,
    }
}

async fn list(router: &show::Arguments, route: Option<&str>) -> Result<Vec<ParkedView>, Failure> {
    let mut parked: Vec<ParkedView> = router.get("parked").await?;
    parked.retain(|one| route.is_none_or(|route| one.route == route));
    Ok(parked)
}

impl Chosen {
    /// Goes on with the others when one fails, and fails in the end.
    async fn each(&self, method: &str, suffix: &str, done: &str) -> Result<(), Failure> {
        let ids = match self.all {
            true => list(&self.router, self.route.as_deref()).await?.into_iter().map(|one| one.id).collect(),
            false => self.ids.clone(),
        };
        let mut failed = 0;
        for id in &ids {
            let url = self.router.url(&format!("parked/{id}{suffix}"));
            let headers =
                self.token.iter().map(|token| ("authorization".to_owned(), format!("Bearer {token}"))).collect();
            match text(Call { method, url: &url, headers, body: Bytes::new() }).await {
                Ok(_) => println!("{id} {done}"),
                Err(Failure::Wrong(reason) | Failure::Usage(reason)) => {
                    failed += 1;
                    eprintln!("longhaul: {reason}");
                }
            }
        }
        if failed == 0 { Ok(()) } else { Err(Failure::Wrong(format!("{failed} of {} are still parked", ids.len()))) }
    }
}

fn table(parked: &[ParkedView]) -> String {
    let row = |one: &ParkedView| {
        vec![
            one.id.clone(),
            one.route.clone(),
            format!("{}/{}/{}", one.from.0, one.from.1, one.from.2),
            one.offset.to_string(),
            format!("{}/{}", one.to.0, one.to.1),
            one.topic.clone(),
            one.payload_bytes.to_string(),
            one.kind.clone(),
            one.reason.clone(),
        ]
    };
    let headings = ["ID", "ROUTE", "FROM", "OFFSET", "TO", "TOPIC", "BYTES", "KIND", "REASON"];
    render(&headings, &parked.iter().map(row).collect::<Vec<_>>())
}

fn whole(event: &ParkedEvent) -> String {
    let about = &event.about;
    let mut lines = vec![
        format!("id        {}", about.id),
        format!("event     {}", about.event),
        format!("route     {}", about.route),
        format!("from      {}/{}/{} at offset {}", about.from.0, about.from.1, about.from.2, about.offset),
        format!("to        {}/{} on {}", about.to.0, about.to.1, about.topic),
        format!("refused   {}: {}", about.kind, about.reason),
        format!("time      {} ms, parked {} ms", about.time_ms, about.parked_ms),
        format!("key       {}", or_dash(about.key.as_ref())),
    ];
    lines.extend(event.headers.iter().map(|(name, value)| format!("header    {name}: {value}")));
    lines.push(format!("payload   {} bytes", about.payload_bytes));
    lines.extend(event.text.clone().or_else(|| event.payload.clone()));
    lines.join("\n")
}
