# The MLflow server of docker-compose.yml: MLflow as the search has it, and what it needs for PostgreSQL and S3.
FROM python:3.12-slim
RUN pip install --no-cache-dir mlflow==3.17.2 psycopg2-binary==2.9.13 boto3==1.44.5 \
 && useradd --create-home --uid 1000 mlflow
USER 1000
WORKDIR /home/mlflow
EXPOSE 5000
