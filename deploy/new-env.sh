#!/bin/sh
# A new .env for compose.yaml, with passwords of its own: sh deploy/new-env.sh > .env
set -eu
umask 077
hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
cat <<ENV
# Made by deploy/new-env.sh. Keep it secret: whoever has it has everything.
NATS_GATEWAY_PASSWORD=gateway-$(hex 24)
NATS_RUNNER_PASSWORD=runner-$(hex 24)
NATS_SWEEPER_PASSWORD=sweeper-$(hex 24)
NATS_REPLAY_PASSWORD=replay-$(hex 24)
POSTGRES_PASSWORD=postgres-$(hex 24)
# The first API key, of the tenant "main". Used once, when the database has no key yet.
PERDURE_FIRST_KEY=pdr_$(hex 4)_$(hex 21)a
# The address, on this host, where the API is to be found.
GATEWAY_PUBLISH=127.0.0.1:8480
# An OpenAI-compatible endpoint for chat model nodes, its key, and the model that nodes without one of their own take.
PERDURE_MODEL_URL=
PERDURE_MODEL_KEY=
PERDURE_MODEL_NAME=
PERDURE_OUTBOUND_ALLOW=
ENV
