//! A server of the workstation, and one exchange with it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server of the workstation that sends back what it gets, with the ends
/// kept apart: it answers only after it read to the end.
pub async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    port
}

/// Sends, ends, and reads to the end.
pub async fn exchange(mut pod: TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    pod.write_all(bytes).await?;
    pod.shutdown().await?;
    let mut all = Vec::new();
    pod.read_to_end(&mut all).await?;
    Ok(all)
}
