// One run of the unmodified HttpAgent of @ag-ui/client, or of the agent of the documentation: every event is a line of
// JSON on standard output, the last line is what the client has in the end. It is told what to do by its one argument.

import { HttpAgent } from "@ag-ui/client";
import { AgentCapabilitiesSchema } from "@ag-ui/core/schemas";
import { DurableAgent } from "./durable.mjs";

const told = JSON.parse(process.argv[2]);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const Agent = told.durable ? DurableAgent : HttpAgent;
const agent = new Agent({
  url: `${told.url}/api/agui/${told.flow}`,
  headers: { Authorization: `Bearer ${told.key}` },
  threadId: told.threadId,
  initialMessages: told.messages ?? [],
  initialState: told.state ?? {},
});
const subscriber = { onEvent: ({ event }) => say({ event }) };

if (told.capabilities) {
  const headers = { Authorization: `Bearer ${told.key}` };
  const shown = await (await fetch(`${told.url}/api/agui/${told.flow}/capabilities`, { headers })).json();
  AgentCapabilitiesSchema.parse(shown);
  const { custom, ...categories } = shown;
  const unknown = Object.entries(categories).flatMap(([name, said]) => {
    const known = AgentCapabilitiesSchema.shape[name]?.unwrap().shape ?? {};
    return Object.keys(said).filter((key) => !(key in known)).map((key) => `${name}.${key}`);
  });
  say({ last: { unknown, shown } });
  process.exit(0);
}

const last = { result: null, interrupted: 0 };
try {
  last.result = (await agent.runAgent({ runId: told.runId }, subscriber)).result ?? null;
  while (told.answer && agent.pendingInterrupts.length > 0) {
    last.interrupted += 1;
    const resume = agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, ...told.answer }));
    const runId = `${told.runId}-answer-${last.interrupted}`;
    last.result = (await agent.runAgent({ runId, resume }, subscriber)).result ?? null;
  }
} catch (error) {
  last.error = { message: error.message, status: error.status ?? null, payload: error.payload ?? null };
}
say({ last: { ...last, messages: agent.messages, state: agent.state, pending: agent.pendingInterrupts } });
