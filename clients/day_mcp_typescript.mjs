// A day's work with the official TypeScript client of MCP.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const headers = { "x-api-key": process.env.KEY };
const transport = new StreamableHTTPClientTransport(new URL(process.env.URL + "/mcp"), { requestInit: { headers } });
const client = new Client({ name: "day", version: "1.0.0" });
await client.connect(transport);

async function call(name, args = {}) {
  const result = await client.callTool({ name, arguments: args });
  const text = result.content[0].text;
  return result.isError ? `error: ${text}` : JSON.parse(text);
}

console.log("tools:", (await client.listTools()).tools.length);
const { artists } = await call("list_artists");
const artist = artists.find((one) => one.name === "Mira Solène");
console.log("my artists:", artists.map((one) => one.name).sort().join(", "));
const fields = { title: "Fan letter", prompt: "Write it.", schedule: "0 9 * * 1" };
const [task] = (await call("create_task", { ...fields, artist_account_id: artist.account_id })).tasks;
console.log("create:", task.title, "for", task.artist_name);
const listed = await call("list_tasks", { limit: 100 });
console.log("list:", listed.tasks.some((one) => one.id === task.id));
console.log("pause: enabled is", (await call("pause_task", { id: task.id })).tasks[0].enabled);
const [run] = (await call("run_task_now", { id: task.id })).runs;
const [read] = (await call("get_run", { runId: run.id, wait: 1 })).runs;
console.log("run now, read the run:", read.id === run.id);
console.log("delete:", (await call("delete_task", { id: task.id })).status);
console.log("an error:", await call("get_run", { runId: "run_of_nobody" }));
await client.close();
