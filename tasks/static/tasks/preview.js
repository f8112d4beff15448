// Shows what a schedule means while it is typed: /admin/tasks/task/preview/ uses the code of the API's preview.
document.addEventListener("DOMContentLoaded", () => {
  const schedule = document.querySelector("#id_schedule");
  const zone = document.querySelector("#id_timezone");
  if (!schedule || !zone) return;
  const shown = document.createElement("p");
  shown.className = "recoup-preview";
  shown.setAttribute("role", "status");
  schedule.after(shown);
  let timer = 0;
  const ask = async () => {
    const query = new URLSearchParams({ schedule: schedule.value });
    if (zone.value) query.set("timezone", zone.value);
    const response = await fetch(`/admin/tasks/task/preview/?${query}`);
    if (!response.ok) return;
    const { problem, words, times, warnings } = await response.json();
    shown.textContent = problem || [`${words}: ${times.join("; ")}`, ...warnings].join(" ");
  };
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(ask, 300);
  };
  schedule.addEventListener("input", later);
  zone.addEventListener("input", later);
});
