//! Whether the parts that the service stands on answer.

/// Asks store, assets and provider configuration.
pub struct Health;

impl Health {
    /// The reasons why the service cannot work now; empty if it can.
    pub async fn reasons(&self) -> Vec<String> {
        todo!()
    }
}
