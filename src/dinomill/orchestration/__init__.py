"""The stages as another program's graph: Airflow, Argo Workflows, a Kubernetes job. Only text is made here."""
