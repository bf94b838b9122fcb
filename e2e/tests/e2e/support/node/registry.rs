//! A registry on loopback with one image, for runtimes to pull as they pull
//! any other.

use super::image::{Image, REGISTRY};
use anyhow::{Context as _, Result};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Serves `image` until the run ends.
///
/// # Errors
/// The port is taken.
pub(crate) async fn serve(image: Image) -> Result<()> {
    let listener = TcpListener::bind(REGISTRY).await;
    let listener = listener.with_context(|| format!("no registry on {REGISTRY}"))?;
    let image = Arc::new(image);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let image = image.clone();
            // A client that goes away is no failure.
            tokio::spawn(async move { answer(stream, &image).await.ok() });
        }
    });
    Ok(())
}

/// One request, one answer.
async fn answer(mut stream: TcpStream, image: &Image) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    let request = lines.next_line().await?.unwrap_or_default();
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}
    let mut words = request.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let found = image.find(path);
    let head = match &found {
        Some(blob) => format!(
            "200 OK\r\nContent-Type: {}\r\nDocker-Content-Digest: {}\r\nContent-Length: {}",
            blob.media_type,
            blob.digest,
            blob.bytes.len()
        ),
        None => "404 Not Found\r\nContent-Length: 0".to_owned(),
    };
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
    writer.write_all(head.as_bytes()).await?;
    if let Some(blob) = found.filter(|_| method == "GET") {
        writer.write_all(&blob.bytes).await?;
    }
    writer.shutdown().await
}
