"""One file per gRPC service. Bytes in, bytes out; errors leave as typed exceptions; no gRPC in here."""
