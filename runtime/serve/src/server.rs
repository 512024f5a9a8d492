//! HTTP: accepts connections, checks requests and answers them.
//!
//! In: bytes of anyone who can reach the socket. Out: an answer. Refused, as JSON with a 4xx status: a request that is
//! wrong in any way. hyper itself answers what is not HTTP, with an empty 4xx, and closes the connection. No part of a
//! request ever becomes a path: task names are looked up among the loaded tasks.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::pin,
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use hyper::{
    Method, Request, StatusCode,
    body::{Body as _, Incoming},
    header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use crate::{
    clients::Clients,
    guard::{check_head, check_host, check_origin},
    limits,
    listen::{Acceptor, Connection, Stream},
    metrics::Metrics,
    openai, predict, protocol,
    reply::{Form, Refusal, Reply, bytes, json},
    rerank::rerank,
    route::Route,
    tasks::{CurrentListing, Listing, Resident, Unavailable},
    tei,
    tls::Tls,
    watch::Wake,
};

/// The page for people.
const PAGE: &str = include_str!("page.html");
/// The page loads nothing from elsewhere.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                           img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every request needs.
pub(crate) struct Server {
    current: Arc<CurrentListing>,
    wakes: Sender<Wake>,
    metrics: Arc<Metrics>,
    /// Who may ask, and how much.
    clients: Clients,
    /// What encrypts connections, if anything does.
    tls: Option<Tls>,
    /// Whether only this machine may send requests, so that other host names are refused.
    local: bool,
    /// Whether the server is ready while no task answers.
    ready_without_tasks: bool,
    /// Bytes of request bodies that may still be accepted.
    bodies: Arc<Semaphore>,
}

/// What `GET /tasks` says of a task.
#[derive(Serialize)]
struct Task<'a> {
    name: &'a str,
    kind: &'static str,
    labels: &'a [String],
    inputs: u8,
    max_length: u32,
    encoder: String,
    encoder_name: &'a str,
    file: String,
    bytes: usize,
    resident_bytes: usize,
    version: String,
}

#[derive(Serialize)]
struct Tasks<'a> {
    tasks: Vec<Task<'a>>,
    refused: &'a [Unavailable],
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
}

impl Server {
    pub fn new(
        current: Arc<CurrentListing>,
        wakes: Sender<Wake>,
        metrics: Arc<Metrics>,
        clients: Clients,
        tls: Option<Tls>,
        local: bool,
        ready_without_tasks: bool,
    ) -> Self {
        let bodies = Arc::new(Semaphore::new(limits::BODIES_BYTES));
        Server { current, wakes, metrics, clients, tls, local, ready_without_tasks, bodies }
    }

    /// Serves connections until `stop`, then finishes the requests in flight.
    pub async fn serve(self, acceptor: Acceptor, stop: impl Future<Output = ()>) {
        let server = Arc::new(self);
        let connections = Arc::new(Semaphore::new(limits::CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let mut stop = pin!(stop);
        loop {
            let accepted = async {
                // The semaphore is never closed.
                let permit = connections.clone().acquire_owned().await;
                (permit, acceptor.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = &mut stop => break,
            };
            match accepted {
                Ok(stream) => {
                    let connection = connection(server.clone(), secured(server.clone(), stream), &graceful);
                    tokio::spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                // The client has gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // No new connection is accepted.
        drop(acceptor);
        let left = graceful.count();
        tracing::info!(connections = left, "stopping");
        if timeout(limits::STOP_TIME, graceful.shutdown()).await.is_err() {
            tracing::warn!("connections that did not end in time are closed");
        }
    }

    /// Answers a request, and counts it.
    async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Infallible> {
        let begun = Instant::now();
        let path = request.uri().path().to_owned();
        let route = Route::of(&path, request.method() == Method::POST);
        let reply = match route {
            None => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "no such address; GET / is a page for people, and GET /tasks lists the tasks",
            )),
            Some(route) => self.route(route, request).await,
        };
        let form = route.map_or(Form::Own, Route::form);
        let reply = reply.unwrap_or_else(|refusal| refusal.into_reply(form));
        self.metrics.request(route.map_or("other", Route::name), reply.status(), begun.elapsed());
        Ok(reply)
    }

    async fn route(&self, route: Route<'_>, request: Request<Incoming>) -> Result<Reply, Refusal> {
        check_head(request.version(), request.headers())?;
        check_origin(request.headers())?;
        if self.local && self.clients.are_unknown() {
            check_host(request.uri(), request.headers())?;
        }
        // Who asks for what is open needs no token, and is not counted.
        let client = match route.is_open() {
            true => self.clients.anyone(),
            false => self.clients.of(request.headers())?,
        };
        client.take_request()?;
        match (route.takes_body(), request.method()) {
            (true, &Method::POST) | (false, &Method::GET | &Method::HEAD) => {}
            (true, _) => return Err(Refusal::method("POST")),
            (false, _) => return Err(Refusal::method("GET")),
        }
        // From here on the request sees one state, whatever changes in the directory.
        let listing = self.current.now();
        if !route.takes_body() {
            return self.tell(route, &listing);
        }
        let head_bytes = match request.headers().get(protocol::HEADER_BYTES) {
            None => None,
            Some(value) => {
                let text = value.to_str().map_err(|_| Refusal::bad(format!("{}: not text", protocol::HEADER_BYTES)))?;
                Some(text.to_owned())
            }
        };
        let (body, _taken) = self.body(request).await?;
        match route {
            Route::PredictAll => predict::all(client, &listing, &body).await,
            Route::Predict(task) => predict::one(client, &listing, task, &body).await,
            Route::Infer(task, version) => {
                protocol::infer(client, protocol::find(&listing, task, version)?, &body, head_bytes.as_deref()).await
            }
            Route::Index => protocol::index(&listing, &body),
            Route::Load(task) => protocol::load(&self.wakes, &listing, task, &body).await,
            Route::Unload(task) => protocol::unload(&self.wakes, &listing, task, &body).await,
            Route::Embeddings => openai::embeddings(client, &listing, &body).await,
            Route::Embed(task) => tei::embeddings(client, &listing, task, &body).await,
            Route::Rerank(task) => rerank(client, &listing, task, &body).await,
            _ => self.tell(route, &listing),
        }
    }

    /// What takes no body.
    fn tell(&self, route: Route<'_>, listing: &Listing) -> Result<Reply, Refusal> {
        #[derive(Serialize)]
        struct Live {
            live: bool,
        }
        #[derive(Serialize)]
        struct Ready<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<&'a str>,
            ready: bool,
        }
        match route {
            Route::Page => {
                let mut page = bytes(StatusCode::OK, "text/html; charset=utf-8", PAGE);
                page.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
                Ok(page)
            }
            Route::Metrics => Ok(bytes(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.text())),
            Route::Tasks => Ok(json(StatusCode::OK, &tasks(listing))),
            Route::Live => Ok(json(StatusCode::OK, &Live { live: true })),
            Route::Ready | Route::Health => {
                let ready = self.ready_without_tasks || !listing.tasks.is_empty();
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                Ok(json(status, &Ready { name: None, ready }))
            }
            Route::Server => Ok(protocol::server()),
            Route::Model(task, version) => Ok(protocol::metadata(protocol::find(listing, task, version)?)),
            Route::ModelReady(task, version) => {
                let resident = protocol::find(listing, task, version)?;
                Ok(json(StatusCode::OK, &Ready { name: Some(&resident.name), ready: true }))
            }
            Route::Models => Ok(openai::models(listing)),
            Route::OneModel(task) => openai::model(listing, task),
            Route::Info(task) => tei::info(listing, task),
            _ => Err(Refusal::method("POST")),
        }
    }

    /// The body of a request, and the room it takes, which is released when the request is answered.
    async fn body(&self, request: Request<Incoming>) -> Result<(Vec<u8>, OwnedSemaphorePermit), Refusal> {
        if request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            let message = "content-encoding: expected none, for bodies are not decompressed here";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).closing());
        }
        let most = limits::BODY_BYTES;
        let too_large = || Refusal::too_large(format!("expected a body of at most {most} bytes, found more")).closing();
        let mut body = request.into_body();
        if body.size_hint().lower() > most as u64 {
            return Err(too_large());
        }
        let read = async {
            let (mut bytes, mut room) = (Vec::new(), self.room(0)?);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Refusal::bad(format!("body: {error}")).closing())?;
                // Trailers have nothing to say here.
                let Ok(data) = frame.into_data() else { continue };
                if data.len() > most - bytes.len() {
                    return Err(too_large());
                }
                room.merge(self.room(data.len())?);
                // Copied, because a slice may keep alive the whole buffer that it was read into.
                bytes.extend_from_slice(&data);
            }
            Ok((bytes, room))
        };
        timeout(limits::BODY_TIME, read).await.unwrap_or_else(|_| {
            let seconds = limits::BODY_TIME.as_secs();
            let message = format!("expected the whole body within {seconds} seconds");
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message).closing())
        })
    }

    /// Room for bytes that have arrived; bytes that are only announced take none.
    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let busy = || Refusal::busy("too many requests at once; ask again in a second").closing();
        let bytes = u32::try_from(bytes).map_err(|_| busy())?;
        self.bodies.clone().try_acquire_many_owned(bytes).map_err(|_| busy())
    }
}

/// The stream of a client, encrypted where the server speaks TLS; none if the client fails at that.
async fn secured(server: Arc<Server>, stream: Stream) -> Option<Box<dyn Connection>> {
    match &server.tls {
        None => Some(Box::new(stream)),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                server.metrics.handshake_failures.inc();
                tracing::debug!(%error, "a client failed at TLS");
                None
            }
        },
    }
}

/// Serves one connection to its end.
pub(crate) fn connection<F: Future<Output = Option<Box<dyn Connection>>>>(
    server: Arc<Server>,
    stream: F,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + use<F> {
    let watcher = graceful.watcher();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIME)
        .max_headers(limits::HEADERS)
        .max_header_size(limits::HEADER_BYTES)
        .max_buf_size(limits::BUFFER_BYTES)
        // Without it hyper takes the end of input for a client that left. In memory that end always comes first.
        .half_close(cfg!(fuzzing));
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { server.answer(request).await }
    });
    async move {
        let Some(stream) = stream.await else { return };
        // An error ends only this connection: the client left, was too slow, or did not speak HTTP.
        let _ = watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await;
    }
}

fn tasks(listing: &Listing) -> Tasks<'_> {
    Tasks {
        tasks: listing.tasks.values().map(|resident| Task::of(resident)).collect(),
        refused: &listing.unavailable,
        unreadable: listing.unreadable.as_deref(),
    }
}

impl<'a> Task<'a> {
    fn of(resident: &'a Resident) -> Self {
        let (spec, manifest) = (resident.task.spec(), resident.worker.encoder().bundle().manifest());
        Task {
            name: &resident.name,
            kind: spec.kind().name(),
            labels: spec.kind().labels(),
            inputs: spec.inputs(),
            max_length: spec.max_length(),
            encoder: manifest.encoder.short(),
            encoder_name: &manifest.name,
            file: resident.file.to_string_lossy().into_owned(),
            bytes: resident.bytes,
            resident_bytes: resident.task.resident_bytes(),
            version: resident.version(),
        }
    }
}
