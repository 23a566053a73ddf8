//! CloudEvents attributes in the bindings of Kafka, AMQP, NATS and HTTP.
