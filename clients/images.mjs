// Screenshots of the admin site, and axe's serious violations. Arguments: the address of a demo, the output folder.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [url, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
let violations = 0;

async function pageOf(theme, width) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: theme, bypassCSP: false });
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && console.log(`${theme} ${width}: ${message.text()}`));
  await page.addInitScript((name) => localStorage.setItem("_x_adminTheme", JSON.stringify(name)), theme);
  await page.goto(`${url}/admin/login/?next=/admin/`);
  await page.fill("[name=username]", "demo");
  await page.fill("[name=password]", "demo");
  await page.press("[name=password]", "Enter");
  await page.waitForURL(`${url}/admin/`);
  return page;
}

async function check(page, name) {
  const found = await page.evaluate(
    async (source) => {
      const script = new Function(`${source}; return window.axe;`);
      const results = await script().run(document, { resultTypes: ["violations"] });
      return results.violations.filter((one) => ["serious", "critical"].includes(one.impact));
    },
    axe,
  );
  for (const one of found) console.log(`${name}: ${one.id}: ${one.help}: ${one.nodes.map((node) => node.html.slice(0, 160)).slice(0, 4).join(" | ")}`);
  violations += found.length;
}

const paths = JSON.parse(process.env.PAGES);
// A job of the worker, so that there is one to see: it changes nothing.
if ("job" in paths) {
const maker = await pageOf("light", 1400);
await maker.goto(`${url}/admin/tasks/bulkjob/add/`);
await maker.selectOption("[name=kind]", "sync");
await maker.selectOption("[name=organization]", { label: "Northlight Records" });
await maker.fill("[name=reason]", "After the incident of this morning");
await maker.click("[name=_save]");
await maker.waitForTimeout(6000);
await maker.context().close();
}

for (const [theme, width] of [["light", 1400], ["dark", 1400], ["light", 390]]) {
  const page = await pageOf(theme, width);
  for (const [name, path] of Object.entries(paths)) {
    await page.goto(url + path);
    await page.waitForTimeout(400);
    const suffix = width === 390 ? "phone" : theme;
    await page.screenshot({ path: `${folder}/${name}-${suffix}.png`, fullPage: name !== "list" });
    if (/^(task|why)/.test(name)) await check(page, `${name}-${suffix}`);
  }
  await page.context().close();
}
await browser.close();
console.log(`${violations} serious violations`);
process.exitCode = violations ? 1 : 0;
