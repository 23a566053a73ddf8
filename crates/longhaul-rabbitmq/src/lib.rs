//! The RabbitMQ connector
