"""The commands as functions: what ``bitfront VERB`` does, without printing. Each is found under ``bitfront`` itself."""
