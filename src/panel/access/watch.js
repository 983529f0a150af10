// Once a login has ended, Streamlit asks in vain whether its server lives. A new page asks for a token.
new PerformanceObserver((list) => {
  const refused = ({ name, responseStatus }) => responseStatus === 401 && /\/(_stcore\/health|static\/js)\b/.test(name);
  if (list.getEntries().some(refused)) location.reload();
}).observe({ type: "resource", buffered: true });
