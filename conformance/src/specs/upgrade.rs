//! HTTP/1.1 up to the 101, and its refusals (§3).

use crate::{
    context::{Context, Opened, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, failed},
    wire::tunnel::{Manner, Tunnel},
};
use serde_json::Value;
use sternline_api::protocol::STREAM_PROTOCOL;
use tokio::io::AsyncReadExt as _;

pub(super) const SPECS: &[Spec] = &[
    spec!(required "upgrade.raw-fields", "3.2", [], "The 101 of the raw form names Upgrade, Connection and the protocol.", raw_fields),
    spec!(required "upgrade.case", "3.1", [], "Field names and the values of Connection and Upgrade compare case-insensitively.", case),
    spec!(required "upgrade.connection-list", "3.1", [], "Connection may list more than Upgrade.", connection_list),
    spec!(required "upgrade.version-list", "10", [], "Of several protocols the node picks the one in common and answers with it.", version_list),
    spec!(required "upgrade.version-unsupported", "3.4", [], "No common protocol: 400, version_unsupported, and the list of those that are spoken.", version_unsupported),
    spec!(required "upgrade.none", "3.4", [], "No Upgrade: 426, upgrade_required, and Upgrade lists both forms.", none),
    spec!(required "upgrade.other", "3.4", [], "An Upgrade to something else: 426.", other),
    spec!(required "upgrade.method", "3.4", [], "A method other than GET: 405, invalid_request.", method),
    spec!(required "upgrade.path", "3.4", [], "Any other path: 404, token_unknown.", path),
    spec!(required "upgrade.token-unknown", "3.4", [], "An unknown token: 404, token_unknown.", token_unknown),
    spec!(required "upgrade.long-head", "3.4", [], "A request head of 16 KiB is taken.", long_head),
    spec!(required "upgrade.split-head", "3.1", [], "A request head may arrive in pieces.", split_head),
    spec!(required "upgrade.early-bytes", "3.5", [], "Bytes before the 101 never become part of a tunnel.", early_bytes),
    spec!(recommended "upgrade.tls", "3.6", [], "An https URL is served over TLS 1.3, with ALPN http/1.1.", tls),
    spec!(recommended "upgrade.tls-alone", "3.6", [], "Where the URL is https, nothing is served in clear text.", tls_alone),
];

async fn opened(context: &Context) -> Step<Opened> {
    let pod = context.pod().await?;
    context.open(&pod, &[tcp("127.0.0.1", 0)]).await
}

/// Sends a request that has to lead to a tunnel.
async fn leads(context: &Context, opened: &Opened, request: &str) -> Step {
    let answer = opened
        .place
        .ask(request.as_bytes(), context.patience)
        .await?;
    let answer = answer.switched()?;
    let tunnel = Tunnel::start(answer.io, answer.rest, Manner::default(), context.patience);
    tunnel.control().await?.ready().await.map(drop)
}

/// Sends a request that has to be refused; answers the body.
async fn refused(
    context: &Context,
    opened: &Opened,
    request: &str,
    status: u16,
    reason: &str,
) -> Step<Value> {
    let answer = opened
        .place
        .ask(request.as_bytes(), context.patience)
        .await?;
    context.step(format!("asked to upgrade: {}", answer.status));
    check(answer.status == status, &status.to_string(), answer.status)?;
    let body = answer.refusal(context.patience).await?;
    let good = body["reason"] == reason && body["message"].is_string();
    check(good, &format!("{reason} and a message"), &body)?;
    Ok(body)
}

async fn raw_fields(context: &Context) -> Step {
    let opened = opened(context).await?;
    let place = &opened.place;
    let answer = place
        .ask(place.raw().as_bytes(), context.patience)
        .await?
        .switched()?;
    let fields = format!("{:?}", answer.fields);
    let connection = answer.field("connection").to_ascii_lowercase();
    let good = connection.split(',').any(|word| word.trim() == "upgrade")
        && answer.field("upgrade").eq_ignore_ascii_case("sternline")
        && answer.field("sternline-protocol") == STREAM_PROTOCOL;
    check(
        good,
        "Connection, Upgrade and Sternline-Protocol as in the page",
        fields,
    )
}

async fn case(context: &Context) -> Step {
    let opened = opened(context).await?;
    let protocol = ("sTERNLINE-pROTOCOL", STREAM_PROTOCOL);
    let request = opened.place.request(&[
        ("CONNECTION", "uPGRADE"),
        ("upgrade", "STERNLINE"),
        protocol,
    ]);
    leads(context, &opened, &request).await
}

async fn connection_list(context: &Context) -> Step {
    let opened = opened(context).await?;
    let protocol = ("Sternline-Protocol", STREAM_PROTOCOL);
    let request = opened.place.request(&[
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "sternline"),
        protocol,
    ]);
    leads(context, &opened, &request).await
}

fn offering(opened: &Opened, protocols: &str) -> String {
    let offer = ("Sternline-Protocol", protocols);
    opened
        .place
        .request(&[("Connection", "Upgrade"), ("Upgrade", "sternline"), offer])
}

async fn version_list(context: &Context) -> Step {
    let opened = opened(context).await?;
    let request = offering(
        &opened,
        &format!("v9.reverse.sternline.dev, {STREAM_PROTOCOL}"),
    );
    let answer = opened
        .place
        .ask(request.as_bytes(), context.patience)
        .await?
        .switched()?;
    let chosen = answer.field("sternline-protocol").to_owned();
    check(chosen == STREAM_PROTOCOL, STREAM_PROTOCOL, chosen)
}

async fn version_unsupported(context: &Context) -> Step {
    let opened = opened(context).await?;
    let request = offering(&opened, "v9.reverse.sternline.dev");
    let body = refused(context, &opened, &request, 400, "version_unsupported").await?;
    let listed = body["supported"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one == STREAM_PROTOCOL));
    check(listed, "the supported protocols", body)
}

async fn none(context: &Context) -> Step {
    let opened = opened(context).await?;
    let request = opened.place.request(&[]);
    let answer = opened
        .place
        .ask(request.as_bytes(), context.patience)
        .await?;
    check(answer.status == 426, "426", answer.status)?;
    let upgrade = answer.field("upgrade").to_ascii_lowercase();
    let both = ["sternline", "websocket"]
        .iter()
        .all(|form| upgrade.contains(form));
    check(both, "Upgrade: sternline, websocket", &upgrade)?;
    let body = answer.refusal(context.patience).await?;
    check(
        body["reason"] == "upgrade_required",
        "upgrade_required",
        body,
    )
}

async fn other(context: &Context) -> Step {
    let opened = opened(context).await?;
    let request = opened
        .place
        .request(&[("Connection", "Upgrade"), ("Upgrade", "h2c")]);
    refused(context, &opened, &request, 426, "upgrade_required")
        .await
        .map(drop)
}

async fn method(context: &Context) -> Step {
    let opened = opened(context).await?;
    let request = opened.place.raw().replacen("GET", "PUT", 1);
    refused(context, &opened, &request, 405, "invalid_request")
        .await
        .map(drop)
}

async fn path(context: &Context) -> Step {
    let mut opened = opened(context).await?;
    opened.place.path = "/somewhere/else".into();
    let request = opened.place.raw();
    refused(context, &opened, &request, 404, "token_unknown")
        .await
        .map(drop)
}

async fn token_unknown(context: &Context) -> Step {
    let mut opened = opened(context).await?;
    opened.place = opened.place.with_token("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let request = opened.place.raw();
    refused(context, &opened, &request, 404, "token_unknown")
        .await
        .map(drop)
}

async fn long_head(context: &Context) -> Step {
    let opened = opened(context).await?;
    let raw = opened.place.raw();
    // Together 16 KiB, in several fields: a single one may meet other limits.
    let mut fields = String::new();
    let mut left = 16_384 - raw.len();
    while left > 32 {
        let length = left.min(2000);
        let name = format!("X-Padding-{}: ", fields.len());
        fields.push_str(&format!(
            "{name}{}\r\n",
            "x".repeat(length - name.len() - 2)
        ));
        left -= length;
    }
    let request = raw.replacen("Connection:", &format!("{fields}Connection:"), 1);
    leads(context, &opened, &request).await
}

async fn split_head(context: &Context) -> Step {
    let opened = opened(context).await?;
    let request = opened.place.raw();
    let pieces: Vec<_> = request.as_bytes().chunks(request.len() / 5).collect();
    let answer = opened
        .place
        .ask_in_pieces(&pieces, context.patience)
        .await?
        .switched()?;
    let tunnel = Tunnel::start(answer.io, answer.rest, Manner::default(), context.patience);
    tunnel.control().await?.ready().await.map(drop)
}

async fn early_bytes(context: &Context) -> Step {
    let opened = opened(context).await?;
    let request = opened.place.raw() + "early";
    let expected = "a refusal, or the end of the connection without a tunnel";
    let Ok(mut answer) = opened.place.ask(request.as_bytes(), context.patience).await else {
        return Ok(());
    };
    context.step(format!("sent five bytes too early: {}", answer.status));
    if answer.status == 101 {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(context.patience, answer.io.read_to_end(&mut rest)).await;
        if ended.is_err() {
            return failed(expected, "a tunnel that stays open");
        }
    }
    let pod = opened.response.session_id;
    let listed = context.list("").await?;
    let gone = listed
        .iter()
        .all(|session| session.session_id != pod || session.tunnels == 0);
    check(gone, expected, format!("{listed:?}"))
}

async fn tls(context: &Context) -> Step {
    let opened = opened(context).await?;
    let agrees = opened.place.agrees().await?;
    check(agrees, "ALPN http/1.1", "another protocol, or none")
}

async fn tls_alone(context: &Context) -> Step {
    let opened = opened(context).await?;
    let clear = opened.place.in_clear()?;
    let answer = clear.ask(clear.raw().as_bytes(), context.patience).await;
    if let Ok(answer) = answer {
        context.step(format!("asked in clear text: {}", answer.status));
        check(answer.status != 101, "no tunnel in clear text", "a 101")?;
    }
    let place = &opened.place;
    context.step("asks over TLS");
    leads(context, &opened, &place.raw()).await
}
