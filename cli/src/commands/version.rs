//! `sternline version`.

use super::json;
use crate::args::{Format, Version};
use crate::clean::clean;
use crate::connect::Server;
use crate::fault::Fault;
use crate::output::Output;
use serde::Serialize;
use sternline_api::protocol::{API_VERSIONS, STREAM_PROTOCOLS};
use sternline_api::v1alpha1 as pb;

/// One side's versions.
#[derive(Debug, Serialize)]
struct Side {
    name: String,
    version: String,
    api_versions: Vec<String>,
    protocols: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Both {
    client: Side,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_error: Option<String>,
}

/// Prints the version of this program, and the server's unless it is not asked
/// for.
///
/// # Errors
/// Why the server does not answer; our version is printed before.
pub async fn version(server: &Server, args: &Version, output: &Output) -> Result<(), Fault> {
    let client = Side {
        name: "sternline".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api_versions: API_VERSIONS.iter().map(ToString::to_string).collect(),
        protocols: STREAM_PROTOCOLS.iter().map(ToString::to_string).collect(),
    };
    let asked = if args.client {
        Ok(None)
    } else {
        ask(server).await.map(Some)
    };
    let (server, failed) = match asked {
        Ok(side) => (side, None),
        Err(fault) => (None, Some(fault)),
    };
    match args.output {
        Format::Json => {
            let server_error = failed.as_ref().map(|fault| fault.message.clone());
            let both = Both {
                client,
                server,
                server_error,
            };
            json(output, &both)?;
        }
        Format::Text => {
            output.line(format!("Client Version: {}", client.version));
            if let Some(side) = server {
                let versions = [side.api_versions, side.protocols].concat().join(", ");
                output.line(format!(
                    "Server Version: {} {} ({versions})",
                    side.name, side.version
                ));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn ask(server: &Server) -> Result<Side, Fault> {
    let mut client = server.connect().await?;
    let answer = server.answer(client.version(pb::VersionRequest {})).await?;
    let all = |texts: Vec<String>| texts.iter().map(|text| clean(text)).collect();
    Ok(Side {
        name: clean(&answer.name),
        version: clean(&answer.version),
        api_versions: all(answer.api_versions),
        protocols: all(answer.protocols),
    })
}
