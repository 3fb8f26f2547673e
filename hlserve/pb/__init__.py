"""The wire contract: .proto files and what is generated from them; read by ``messages``."""
