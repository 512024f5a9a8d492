//! Addresses: which path leads where.
//!
//! In: the path of a request, and whether it is a POST. Out: a route, or none. Names of tasks are parts of the path.
//! Nothing is decoded, and no part ever becomes the path of a file.

use crate::reply::Form;

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Page,
    Metrics,
    Tasks,
    PredictAll,
    Predict(&'a str),
    Live,
    Ready,
    Server,
    Model(&'a str, Option<&'a str>),
    ModelReady(&'a str, Option<&'a str>),
    Infer(&'a str, Option<&'a str>),
    Index,
    Load(&'a str),
    Unload(&'a str),
    /// OpenAI's form.
    Embeddings,
    Models,
    OneModel(&'a str),
    /// The form of text-embeddings-inference.
    Embed(Option<&'a str>),
    Rerank(Option<&'a str>),
    Info(Option<&'a str>),
    Health,
}

impl<'a> Route<'a> {
    /// The route of a path; none if there is no such address. `post` is whether the request is a POST.
    pub fn of(path: &'a str, post: bool) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match parts[..] {
            // Clients of text-embeddings-inference that know only a server ask there.
            [""] if post => Route::Embed(None),
            [""] => Route::Page,
            ["metrics"] => Route::Metrics,
            ["tasks"] => Route::Tasks,
            ["predict"] => Route::PredictAll,
            ["predict", task] => Route::Predict(task),
            ["v2"] => Route::Server,
            ["v2", "health", "live"] => Route::Live,
            ["v2", "health", "ready"] => Route::Ready,
            ["v2", "models", task] => Route::Model(task, None),
            ["v2", "models", task, "ready"] => Route::ModelReady(task, None),
            ["v2", "models", task, "infer"] => Route::Infer(task, None),
            ["v2", "models", task, "versions", version] => Route::Model(task, Some(version)),
            ["v2", "models", task, "versions", version, "ready"] => Route::ModelReady(task, Some(version)),
            ["v2", "models", task, "versions", version, "infer"] => Route::Infer(task, Some(version)),
            ["v2", "repository", "index"] => Route::Index,
            ["v2", "repository", "models", task, "load"] => Route::Load(task),
            ["v2", "repository", "models", task, "unload"] => Route::Unload(task),
            ["v1", "embeddings"] => Route::Embeddings,
            ["v1", "models"] => Route::Models,
            ["v1", "models", task] => Route::OneModel(task),
            ["embed"] => Route::Embed(None),
            ["embed", task] => Route::Embed(Some(task)),
            ["rerank"] | ["v1" | "v2", "rerank"] => Route::Rerank(None),
            ["rerank", task] => Route::Rerank(Some(task)),
            ["info"] => Route::Info(None),
            ["info", task] => Route::Info(Some(task)),
            ["health"] => Route::Health,
            _ => return None,
        })
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Route::Page => "page",
            Route::Metrics => "metrics",
            Route::Tasks => "tasks",
            Route::PredictAll | Route::Predict(_) => "predict",
            Route::Live | Route::Ready | Route::Health => "health",
            Route::Server | Route::Model(..) | Route::ModelReady(..) => "metadata",
            Route::Models | Route::OneModel(_) | Route::Info(_) => "metadata",
            Route::Embeddings => "embeddings",
            Route::Embed(_) => "embed",
            Route::Rerank(_) => "rerank",
            Route::Infer(..) => "infer",
            Route::Index | Route::Load(_) | Route::Unload(_) => "repository",
        }
    }

    /// Whether it takes a body, and so a POST.
    pub fn takes_body(self) -> bool {
        match self {
            Route::PredictAll | Route::Predict(_) | Route::Infer(..) => true,
            Route::Index | Route::Load(_) | Route::Unload(_) => true,
            Route::Embeddings | Route::Embed(_) | Route::Rerank(_) => true,
            Route::Page | Route::Metrics | Route::Tasks | Route::Live | Route::Ready => false,
            Route::Server | Route::Model(..) | Route::ModelReady(..) => false,
            Route::Models | Route::OneModel(_) | Route::Info(_) | Route::Health => false,
        }
    }

    /// Whether it needs no token, because it reveals nothing.
    pub fn is_open(self) -> bool {
        matches!(self, Route::Page | Route::Live | Route::Ready | Route::Health)
    }

    /// The form of its errors.
    pub fn form(self) -> Form {
        match self {
            Route::Embeddings | Route::Models | Route::OneModel(_) => Form::OpenAi,
            Route::Embed(_) | Route::Rerank(_) | Route::Info(_) | Route::Health => Form::Tei,
            _ => Form::Own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_where_the_protocol_says_and_nowhere_else() {
        for (path, route) in [
            ("/", Some(Route::Page)),
            ("/predict/sst2", Some(Route::Predict("sst2"))),
            ("/v2", Some(Route::Server)),
            ("/v2/models/a/versions/1/infer", Some(Route::Infer("a", Some("1")))),
            ("/v2/repository/models/a/unload", Some(Route::Unload("a"))),
            ("/v2/models/../../etc/passwd", None),
            ("/predict/", Some(Route::Predict(""))),
            ("//", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(Route::of(path, false), route, "{path}");
        }
    }

    #[test]
    fn the_page_needs_no_token_and_what_is_posted_there_does() {
        assert!(Route::of("/", false).unwrap().is_open());
        let posted = Route::of("/", true).unwrap();
        assert_eq!((posted, posted.is_open()), (Route::Embed(None), false));
    }
}
