//! A parameter that may be left out is not one that may be null: in a header or a query there is no null.

use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{OpenApi, RefOr, Schema};

use super::operations;

/// Takes null out of every parameter's type.
pub(super) fn describe(description: &mut OpenApi) {
    for item in description.paths.paths.values_mut() {
        for (_, operation) in operations(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter
                    && let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
                    && let SchemaType::Array(types) = &mut schema.schema_type
                {
                    types.retain(|one| *one != Type::Null);
                    if let [only] = types.as_slice() {
                        schema.schema_type = SchemaType::Type(only.clone());
                    }
                }
            }
        }
    }
}
