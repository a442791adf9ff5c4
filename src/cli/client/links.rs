//! Links as the service hands them out, asked for once each: what a browser would get.

use reqwest::header::LOCATION;
use reqwest::{Method, Request, Response, StatusCode, Url};

use super::Client;
use crate::cli::failure::Failure;

impl Client {
    /// Where a path of the service redirects to.
    ///
    /// # Errors
    /// If it does not redirect with 302, or to nowhere.
    pub(in crate::cli) async fn redirect_of(&self, path: &str) -> Result<Url, Failure> {
        let request = self.request(Method::GET, path)?;
        let response = self.exchange(&request).await?;
        if response.status() != StatusCode::FOUND {
            let status = response.status();
            self.accept(response).await?;
            return Err(Failure::Unexpected(format!("{path} answers {status}, and no redirect")));
        }
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let at = location.and_then(|location| request.url().join(location).ok());
        at.ok_or_else(|| Failure::Unexpected(format!("{path} redirects to nowhere")))
    }

    /// Where a link of the service leads: it may be written without its host.
    pub(in crate::cli) fn resolve(&self, link: &str) -> Result<Url, Failure> {
        let base = self.request(Method::GET, "/")?.url().clone();
        base.join(link).map_err(|_| Failure::Unexpected(format!("{link} is no link")))
    }

    /// Opens what a link leads to. It carries its own right: the key is not shown.
    ///
    /// # Errors
    /// If it does not answer with 200.
    pub(in crate::cli) async fn open_link(&self, at: &Url) -> Result<Response, Failure> {
        let response = self.exchange(&Request::new(Method::GET, at.clone())).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(Failure::Unexpected(format!("{}{} answers {status}", at.authority(), at.path()))),
        }
    }
}
