//! A registry on loopback, for runtimes to pull from as they pull any image.

use super::image::Image;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Serves `images` on `listener` until the run ends.
pub(crate) fn serve(listener: TcpListener, images: Arc<[Image]>) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let images = images.clone();
            // A client that goes away is no failure.
            tokio::spawn(async move { answer(stream, &images).await.ok() });
        }
    });
}

/// One request, one answer.
async fn answer(mut stream: TcpStream, images: &[Image]) -> std::io::Result<()> {
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
    let path = path.trim_start_matches("/v2").trim_start_matches('/');
    let found = images.iter().find_map(|image| image.find(path));
    let head = match &found {
        // Whether it is a registry at all.
        _ if path.is_empty() => "200 OK\r\nContent-Length: 0".to_owned(),
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
