//! Automation that needs more than a line of the Makefile: `guards` checks the rules of the house, `brokers` fetches what real brokers need,
//! `image` makes the container image.

mod image;
mod layers;
mod logs;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use longhaul_test_brokers::{kafka::Kafka, nats::Nats, prometheus, rabbitmq::RabbitMq};

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    let result = match command.as_str() {
        "guards" => guards(),
        "brokers" => brokers(),
        "image" => {
            let binary = std::env::args().nth(2);
            image::build(Path::new(binary.as_deref().unwrap_or("target/release/longhaul")))
        }
        _ => Err("usage: xtask guards | brokers | image [BINARY]".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("xtask {command}: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Checks layers, tidiness and the names in logs; says everything that is wrong.
fn guards() -> Result<(), String> {
    let wrong: Vec<String> = layers::check()?.into_iter().chain(tidy::check()?).chain(logs::check()?).collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("\n{}", wrong.join("\n"))) }
}

/// Starts one broker of each kind and stops it: fetches what is missing, and proves that it runs. Fetches Prometheus too.
#[expect(clippy::print_stdout, reason = "says what is ready")]
fn brokers() -> Result<(), String> {
    println!("kafka at {}", Kafka::start()?.bootstrap());
    println!("rabbitmq at {}", RabbitMq::start()?.uri());
    println!("nats at {}", Nats::start()?.url());
    println!("prometheus in {}", prometheus::programs()?.prometheus.display());
    Ok(())
}
